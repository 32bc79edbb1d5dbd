"""Toys: train, airplane, rocket, robot, blocks, dinosaur, bunny, penguin, snowman, castle ..."""

import numpy as np
from look import ANY, Kind, Look, Part
from meshes import Mesh, Points, arc, box, disk, ellipsoid, extrude, lathe, merged, spline, tube

SIDES = (-1, 1)


def can(radius: float, height: float, top: float | None = None) -> Mesh:
    """A closed cylinder or truncated cone, standing on z = 0."""
    top = radius if top is None else top
    return lathe([(0, 0), (radius, 0)], [(radius, 0), (top, height)], [(top, height), (0, height)])


def wheel(radius: float, width: float) -> Mesh:
    """A tyre that rolls along y, about the origin."""
    a, round_ = np.radians(np.linspace(-90, 90, 7)), width * 0.35
    side = np.stack([radius - round_ + round_ * np.cos(a), width / 2 * np.sin(a)], 1)
    ends = [(0, -width / 2), side[0]], [side[-1], (0, width / 2)]
    return lathe(ends[0], side, ends[1], segments=32).turned("y", 90)


def upright(outline: Points, depth: float) -> Mesh:
    """A flat shape given in x-z, `depth` thick about y = 0."""
    return extrude(outline, depth).turned("x", 90).moved(0, depth / 2, 0)


def sidewise(outline: Points, depth: float) -> Mesh:
    """A flat shape given in y-z, `depth` thick about x = 0."""
    return upright(outline, depth).turned("z", 90)


def sized(parts: list[Part], size: float) -> list[Part]:
    return [Part(p.name, p.mesh.scaled(size), p.surface) for p in parts]


def train(look: Look) -> list[Part]:
    long, fat = look.between(1.0, 1.2), look.between(0.34, 0.4)
    material = str(look.rng.choice(["wood", "plastic"]))
    cabin_color = look.other("red", "green", "blue", "yellow")
    boiler = can(fat, long).turned("x", 90).moved(0, 0.2, 0.42 + fat)
    ring = lathe([(fat, 0), (fat + 0.05, 0)], [(fat + 0.05, 0), (fat + 0.05, 0.12)])
    ring = merged(ring, disk(fat + 0.05, 0.12)).turned("x", 90).moved(0, 0.2 - long, 0.42 + fat)
    cabin = box(0.92, 0.72, 0.98, 0.03).moved(0, 0.5, 0.38)
    panes = merged(
        box(0.96, 0.4, 0.34, 0.02).moved(0, 0.5, 0.86), box(0.6, 0.76, 0.3, 0.02).moved(0, 0.5, 0.9)
    )
    roof = box(1.12, 0.98, 0.14, 0.06).moved(0, 0.5, 1.34)
    front = 0.2 - long
    stack = lathe(
        [(0.12, 0), (0.12, 0.3), (0.24, 0.52)], [(0.24, 0.52), (0.24, 0.6)], [(0.24, 0.6), (0, 0.6)]
    ).moved(0, front + 0.26, 0.36 + 2 * fat)
    plow = sidewise([(0.1, 0.1), (0.1, 0.44), (-0.14, 0.1)], 0.8).scaled(1, 1.4, 1)
    chassis = merged(
        box(0.7, long + 0.7, 0.2, 0.03).moved(0, 0.5 - long / 2 + 0.1, 0.28),
        plow.moved(0, front - 0.08, 0),
    )
    wheels = [wheel(0.34, 0.15).moved(0.47 * s, 0.5, 0.34) for s in SIDES]
    wheels += [
        wheel(0.22, 0.15).moved(0.47 * s, y, 0.22)
        for s in SIDES
        for y in (front + 0.22, front * 0.5 + 0.1)
    ]
    dark = look.paint(look.other("black", "grey"), "metal" if material == "plastic" else material)
    return [
        Part("boiler", merged(boiler, ring), look.paint(material=material)),
        Part("cabin", cabin, look.paint(cabin_color, material)),
        Part("roof", roof, look.paint(look.other("black", "red", "white"), material)),
        Part("windows", panes, look.paint("turquoise", "skin")),
        Part("chimney", stack, look.paint(look.other("black", "yellow", "red"), material)),
        Part("chassis", chassis, dark),
        Part("wheels", merged(*wheels), look.paint(look.other("red", "black", "yellow"), material)),
    ]


def airplane(look: Look) -> list[Part]:
    span, fat = look.between(1.05, 1.25), look.between(0.24, 0.29)
    wing_color = look.other("white", "red", "blue", "yellow", "grey")
    axis = 0.62
    profile = spline(
        [(0.02, -1.1), (0.6, -1.02), (1, -0.65), (1, 0.1), (0.55, 0.75), (0.22, 1.1), (0.02, 1.15)]
    )
    body = lathe(profile * [fat, 1]).turned("x", -90).moved(0, 0, axis)
    wings = extrude(
        np.array(
            [(-1, -2), (-1, 20), (-0.2, 30), (0.2, 30), (1, 20), (1, -2), (0.2, -40), (-0.2, -40)]
        )
        * [span, 0.01],
        0.09,
    ).moved(0, -0.12, axis - 0.12)
    fin = sidewise(
        [(0.62, axis + 0.1), (1.15, axis), (1.22, axis + 0.62), (0.98, axis + 0.62)], 0.1
    )
    plane = extrude(
        [(-0.5, 1.0), (-0.5, 1.18), (0.5, 1.18), (0.5, 1.0), (0.1, 0.8), (-0.1, 0.8)], 0.08
    ).moved(0, 0, axis)
    blades = merged(
        *(
            ellipsoid(0.08, 0.03, 0.26, 16).moved(0, 0, 0.24).turned("y", angle)
            for angle in (20, 140, 260)
        ),
        ellipsoid(0.1, 0.14, 0.1, 18),
    ).moved(0, -1.14, axis)
    cockpit = ellipsoid(0.2, 0.32, 0.2).moved(0, -0.42, axis + 0.2)
    wheels = merged(
        *(wheel(0.16, 0.12).moved(0.32 * s, -0.35, 0.16) for s in SIDES),
        wheel(0.1, 0.08).moved(0, 0.8, 0.1),
        *(tube([(0.3 * s, -0.35, 0.16), (0.12 * s, -0.3, axis - 0.1)], 0.035, 8) for s in SIDES),
        tube([(0, 0.8, 0.1), (0, 0.78, axis - 0.05)], 0.03, 8),
    )
    return [
        Part("body", body, look.paint()),
        Part("wings", wings, look.paint(wing_color)),
        Part("tail", merged(fin, plane), look.paint(wing_color)),
        Part("cockpit", cockpit, look.paint(look.other("turquoise", "black"), "skin")),
        Part("propeller", blades, look.paint(look.other("black", "yellow", "red"))),
        Part("wheels", wheels, look.paint("black" if look.color != "black" else "grey", "rubber")),
    ]


def rocket(look: Look) -> list[Part]:
    high, fat = look.between(1.9, 2.2), look.between(0.38, 0.44)
    fin_color = look.other("red", "blue", "yellow", "orange", "black")
    z0 = 0.32
    curve = spline([(0.26, 0), (0.4, 0.3), (0.42, 0.75), (0.36, 1.2), (0.2, 1.62), (0, 1.8)], 8)
    curve = curve * [fat / 0.42, high / 2.1]
    split = int(np.argmax(curve[:, 1] > 0.6 * curve[-1, 1]))
    body = lathe([(0, 0), curve[0]], curve[: split + 1]).moved(0, 0, z0)
    cone = lathe(curve[split:] * [1.04, 1]).moved(0, 0, z0)
    fins = merged(
        *(
            upright([(0.24, 0.5), (0.4, 1.05), (0.72, 0.5), (0.78, 0), (0.62, 0)], 0.11).turned(
                "z", 45 + 90 * k
            )
            for k in range(4)
        )
    )
    low = curve[: split + 1]
    port = float(np.interp(0.95 - z0, low[:, 1], low[:, 0]))
    panes, rings = [], []
    for turn in (0, 180):
        panes.append(ellipsoid(0.15, 0.06, 0.15, 24).moved(0, -port - 0.02, 0.95).turned("z", turn))
        ring = tube(arc(0.16, 0, 360, 25), 0.04, 8)
        rings.append(ring.moved(0, -port + 0.01, 0.95).turned("z", turn))
    nozzle = lathe([(0, 0.1), (0.28, 0.1)], [(0.28, 0.1), (0.17, 0.36)])
    return [
        Part(
            "body", merged(body, *rings), look.paint(material="metal" if fat > 0.42 else "plastic")
        ),
        Part("nose cone", cone, look.paint(fin_color)),
        Part("fins", fins, look.paint(fin_color)),
        Part("windows", merged(*panes), look.paint(look.other("turquoise", "black"), "skin")),
        Part("nozzle", nozzle, look.paint(look.other("grey", "black"), "metal")),
    ]


def robot(look: Look) -> list[Part]:
    wide, high = look.between(0.8, 0.95), look.between(0.75, 0.9)
    material = str(look.rng.choice(["metal", "plastic"]))
    limb_color = look.other("grey", "black", "white", "blue", "red")
    limb = look.paint(limb_color, material)
    waist = 0.66
    body = box(wide, 0.6, high, 0.06).moved(0, 0, waist)
    chest = merged(
        box(wide * 0.66, 0.06, high * 0.5, 0.02).moved(0, -0.31, waist + high * 0.34),
    )
    neck = waist + high
    head = merged(
        box(0.66, 0.54, 0.5, 0.06).moved(0, 0, neck + 0.1), can(0.16, 0.14).moved(0, 0, neck - 0.02)
    )
    eyes = merged(
        *(ellipsoid(0.11, 0.06, 0.11, 20).moved(0.16 * s, -0.28, neck + 0.4) for s in SIDES)
    )
    mouth = box(0.4, 0.05, 0.09, 0.02).moved(0, -0.27, neck + 0.15)
    antenna = merged(
        *(tube([(0.2 * s, 0, neck + 0.58), (0.28 * s, 0, neck + 0.8)], 0.03, 8) for s in SIDES),
        *(ellipsoid(0.09, segments=18).moved(0.29 * s, 0, neck + 0.86) for s in SIDES),
    )
    arms, legs = [], []
    for s in SIDES:
        x, z = (wide / 2 + 0.16) * s, neck - 0.2
        arms.append(ellipsoid(0.17, segments=20).moved(x, 0, z))
        arms.append(tube([(x, 0, z), (x + 0.08 * s, -0.05, z - 0.38)], 0.11))
        arms.append(tube([(x + 0.08 * s, -0.05, z - 0.38), (x + 0.05 * s, -0.36, z - 0.46)], 0.1))
        claw = tube(arc(0.13, -150, 150, 14), 0.05, 8).turned("y", 90).turned("x", 180)
        arms.append(claw.turned("x", 90).moved(x + 0.05 * s, -0.56, z - 0.48))
        legs.append(box(0.24, 0.28, waist, 0.03).moved(wide * 0.26 * s, 0, 0))
        legs.append(box(0.34, 0.58, 0.2, 0.06).moved(wide * 0.26 * s, -0.08, 0))
    glow = look.paint(look.other("yellow", "turquoise", "red"), glow=0.35)
    parts = [
        Part("body", body, look.paint(material=material)),
        Part("head", head, look.paint(material=material)),
        Part("chest", chest, look.paint(look.other("white", "yellow", "black", "blue"))),
        Part("eyes", eyes, glow),
        Part("mouth", mouth, look.paint("black" if look.color != "black" else "white")),
        Part("antenna", antenna, look.paint(look.other("red", "yellow", "orange"), material)),
        Part("arms", merged(*arms), limb),
        Part("legs", merged(*legs), limb),
    ]
    return sized(parts, 0.9)


def _sail(tack: Points, clew: Points, top: Points, belly: float) -> Mesh:
    """A triangle of cloth, filled by the wind towards +x: two sheets that meet at the edges."""
    tack, clew, top = (np.asarray(p, float) for p in (tack, clew, top))
    u, v = np.meshgrid(np.linspace(0, 1, 15), np.linspace(0, 0.985, 15), indexing="ij")
    base = tack + v[..., None] * (top - tack) + (u * (1 - v))[..., None] * (clew - tack)
    full = np.sin(np.pi * u) * np.sin(np.pi * np.clip(0.15 + 0.85 * v, 0, 1)) ** 0.6
    sheets = []
    i, j = np.meshgrid(np.arange(14), np.arange(14), indexing="ij")
    a = (15 * i + j).ravel()
    faces = np.concatenate([np.stack([a, a + 15, a + 1], 1), np.stack([a + 1, a + 15, a + 16], 1)])
    for sign in (1, -1):
        p = base + np.array([1.0, 0, 0]) * ((belly + 0.03 * sign) * full)[..., None]
        n = np.cross(np.gradient(p, axis=0), np.gradient(p, axis=1)).reshape(-1, 3)
        n /= np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)
        outward = sign if n[:, 0].sum() > 0 else -sign
        turn = faces if outward > 0 else faces[:, ::-1]
        sheets.append(
            Mesh(p.reshape(-1, 3), n * outward, np.stack([u.ravel(), v.ravel()], 1), turn)
        )
    return merged(*sheets)


def sailboat(look: Look) -> list[Part]:
    wide, high = look.between(0.42, 0.5), look.between(1.75, 2.05)
    sail_color = look.other("white", "white", "red", "yellow", "blue", "orange")
    flag_color = look.other("red", "yellow", "green", "blue")
    outer = spline([(0.6, 0), (0.85, 0.16), (1, 0.48)], 6)
    shell = lathe([(0, 0), outer[0]], outer, [outer[-1], (0.92, 0.48)])
    floor = disk(0.94, 0.43)

    def hulled(mesh: Mesh) -> Mesh:  # a pointed bow (-y) and a broad stern
        p = mesh.vertices.copy()
        p[:, 0] *= np.where(p[:, 1] < 0, 1 - 0.45 * np.clip(-p[:, 1], 0, 1) ** 1.5, 1)
        p[:, 1] *= np.where(p[:, 1] < 0, 1.15 + 0.25 * (p[:, 2] - 0.4), 0.85)
        return Mesh(p, mesh.normals, mesh.uv, mesh.faces).scaled(wide, 1, 1)

    mast = merged(
        tube([(0, -0.12, 0.3), (0, -0.12, high + 0.3)], 0.045, 10),
        tube([(0, -0.12, 0.62), (0.5, 0.66, 0.62)], 0.035, 10),
    )
    top = high + 0.2
    main = _sail((0.01, -0.06, 0.7), (0.5, 0.67, 0.68), (0.0, -0.08, top), 0.24)
    jib = _sail((0.0, -0.18, 0.66), (0.1, -1.05, 0.58), (0.0, -0.16, top * 0.9), 0.3)
    pennant = sidewise([(0, 0), (0, 0.24), (0.4, 0.12)], 0.04).moved(0, -0.1, high + 0.12)
    return [
        Part("hull", hulled(shell), look.paint(material="wood")),
        Part("deck", hulled(floor), look.paint(look.other("brown", "white"), "wood")),
        Part("mast", mast, look.paint("brown" if look.color != "brown" else "white", "wood")),
        Part("sails", merged(main, jib), look.paint(sail_color, "cloth")),
        Part("flag", pennant, look.paint(flag_color, "cloth")),
    ]


def drum(look: Look) -> list[Part]:
    radius, high = look.between(0.62, 0.75), look.between(0.62, 0.85)
    hoop_color = look.other("white", "yellow", "red", "blue", "black")
    hoop = lathe(
        [(radius, 0), (radius + 0.07, 0)],
        [(radius + 0.07, 0), (radius + 0.07, 0.14)],
        [(radius + 0.07, 0.14), (radius - 0.03, 0.14)],
        [(radius - 0.03, 0.14), (radius - 0.03, 0.06)],
    )
    zigzag = []
    for k in range(16):
        z = (0.12, high - 0.1)[k % 2], (0.12, high - 0.1)[(k + 1) % 2]
        a = np.radians(22.5) * np.array([k, k + 0.5, k + 1])
        path = np.stack([np.cos(a), np.sin(a), np.array([z[0], sum(z) / 2, z[1]])], 1)
        zigzag.append(tube(path * [radius + 0.03, radius + 0.03, 1], 0.028, 6))
    sticks = []
    for s in SIDES:
        a, b = np.array([0.14 * s, 0.3, high + 0.12]), np.array([-0.4 * s, -0.72, high + 0.3])
        lift = np.array([0, 0, 0.04 * s])
        sticks += [tube([a + lift, b + lift], 0.05, 10)]
        sticks += [ellipsoid(0.1, segments=16).moved(*(a + lift))]
    return [
        Part("shell", can(radius, high - 0.02), look.paint()),
        Part(
            "drumhead",
            merged(disk(radius - 0.01, high + 0.005)),
            look.paint("white" if look.color != "white" else "yellow", "paper"),
        ),
        Part("hoops", merged(hoop, hoop.moved(0, 0, high - 0.08)), look.paint(hoop_color)),
        Part("cords", merged(*zigzag), look.paint(look.other("yellow", "white", "black"), "cloth")),
        Part("drumsticks", merged(*sticks), look.paint("brown", "wood")),
    ]


# Strokes of letters in a square from -1 to 1: centre x, centre z, width, height.
_LETTERS = {
    "H": ((-0.6, 0, 0.4, 1.8), (0.6, 0, 0.4, 1.8), (0, 0, 1.0, 0.4)),
    "E": ((-0.6, 0, 0.4, 1.8), (0, 0.7, 1.4, 0.4), (0, 0, 1.2, 0.36), (0, -0.7, 1.4, 0.4)),
    "T": ((0, 0, 0.42, 1.8), (0, 0.7, 1.7, 0.4)),
    "L": ((-0.5, 0, 0.42, 1.8), (0.1, -0.7, 1.4, 0.4)),
    "O": ((-0.6, 0, 0.4, 1.8), (0.6, 0, 0.4, 1.8), (0, 0.7, 1.4, 0.4), (0, -0.7, 1.4, 0.4)),
}


def blocks(look: Look) -> list[Part]:
    size = look.between(0.56, 0.64)
    material = str(look.rng.choice(["wood", "plastic"]))
    step = size * 1.03
    places = [  # x, y, level, turn; three blocks carry two, and these carry one
        (-step / 2, -step * 0.45, 0, look.between(-5, 5)),
        (step / 2, -step * 0.45, 0, look.between(-5, 5)),
        (look.between(-0.1, 0.1), step * 0.56, 0, look.between(-9, 9)),
        (-step * 0.25, -step * 0.42, 1, look.between(-14, 8)),
        (step * 0.3, step * 0.5, 1, look.between(5, 25)),
        (0, 0, 2, look.between(15, 45)),
    ]
    names = list(look.rng.permutation([k for k in ("red", "yellow", "blue", "green", "orange")]))
    others = [str(name) for name in names if name != look.color]
    colors = [look.color, others[0], others[1], others[2], look.color, others[0]]
    marks = look.rng.permutation(list("HETLOO"))
    parts, letters = [], []
    for (x, y, level, turn), color, mark in zip(places, colors, marks, strict=True):
        cube = box(size, size, size, 0.04)
        signs = []
        for sx, sz, wx, wz in _LETTERS[str(mark)]:
            half = size * 0.32
            x, z, w, h = half * np.array([sx, sz, wx, wz]) / [1, 1, 2, 2]
            stroke = upright([(x - w, z - h), (x + w, z - h), (x + w, z + h), (x - w, z + h)], 0.04)
            stroke = stroke.moved(0, -size / 2, size / 2)
            signs += [stroke.turned("z", quarter) for quarter in (0, 90, 180, 270)]
        put = [m.turned("z", turn).moved(x, y, level * size) for m in (cube, merged(*signs))]
        parts.append(Part("cubes", put[0], look.paint(color, material)))
        letters.append(put[1])
    letter_color = look.other("white", "black")
    return [*parts, Part("letters", merged(*letters), look.paint(letter_color, material))]


def rings(look: Look) -> list[Part]:
    count, big = 5, look.between(0.68, 0.78)
    material = str(look.rng.choice(["wood", "plastic"]))
    names = look.rng.permutation(["red", "orange", "yellow", "green", "blue", "purple", "pink"])
    others = [str(name) for name in names if name != look.color]
    stand_color = look.other("white", "blue", "yellow", "green")
    base = lathe([(0, 0), (big * 0.95, 0)], spline([(big * 0.95, 0), (big, 0.09), (0.2, 0.2)], 6))
    parts, z = [], 0.2
    a = np.radians(np.linspace(0, 360, 25))
    for k in range(count):
        fat = 0.19 - 0.012 * k
        radius = big * (1 - 0.15 * k) - fat
        ring = lathe(np.stack([radius + fat * np.cos(a), fat * np.sin(a)], 1))
        surface = look.paint("" if k == 0 else others[k - 1], material)
        parts.append(Part("rings", ring.moved(0, 0, z + fat), surface))
        z += 1.9 * fat
    return [
        Part("base", base, look.paint(stand_color, material)),
        Part("stand", can(0.12, z), look.paint(stand_color, material)),
        *parts,
        Part("knob", ellipsoid(0.23).moved(0, 0, z + 0.16), look.paint("", material)),
    ]


def dinosaur(look: Look) -> list[Part]:
    size = look.between(0.86, 0.98)
    coat = look.paint(material="rubber", speck=0.35)
    spike_color = look.other("orange", "yellow", "red", "purple", "turquoise")
    belly_color = look.other("yellow", "white")
    body = ellipsoid(0.46, 0.64, 0.44).moved(0, 0.05, 0.78)
    neck_path = spline([(0, -0.3, 0.9), (0, -0.72, 1.25), (0, -0.82, 1.7), (0, -0.86, 2.0)], 8)
    neck = tube(neck_path, np.linspace(0.3, 0.15, len(neck_path)))
    head = merged(
        ellipsoid(0.2, 0.26, 0.19).moved(0, -0.92, 2.08),
        ellipsoid(0.15, 0.2, 0.11).moved(0, -1.12, 2.02),
    )
    tail_path = spline([(0, 0.45, 0.75), (0, 0.9, 0.58), (0, 1.25, 0.34), (0, 1.5, 0.3)], 8)
    tail = tube(tail_path, np.linspace(0.3, 0.05, len(tail_path)))
    legs = merged(
        *(
            tube([(0.3 * s, y, 0.7), (0.33 * s, y, 0.16)], [0.2, 0.16])
            for s in SIDES
            for y in (-0.28, 0.4)
        )
    )
    eyes = merged(*(ellipsoid(0.065, segments=14).moved(0.17 * s, -1.0, 2.16) for s in SIDES))
    spikes = []
    ridge = spline(
        [
            (-0.7, 1.9, 0.7),
            (-0.6, 1.5, 0.9),
            (-0.35, 1.24, 1.1),
            (0.05, 1.18, 1.3),
            (0.42, 1.06, 1.1),
            (0.75, 0.86, 0.9),
            (1.05, 0.62, 0.7),
        ],
        1,
    )
    slope = np.degrees(np.arctan2(np.gradient(ridge[:, 1]), np.gradient(ridge[:, 0])))
    for (y, z, tall), angle in zip(ridge, slope, strict=True):
        plate = sidewise([(-0.18, -0.1), (0.18, -0.1), (0.04, 0.32), (-0.04, 0.32)], 0.12)
        for s in SIDES:  # two rows that lean apart, so that they show from the front too
            row = plate.scaled(1, 1, tall).turned("y", 24 * s)
            spikes.append(row.turned("x", angle).moved(0.05 * s, y, z))
    low = merged(
        ellipsoid(0.34, 0.55, 0.34).moved(0, -0.1, 0.68),
        tube(neck_path[:20] - [0, 0.1, 0.02], np.linspace(0.24, 0.1, 20)),
    )
    parts = [
        Part("body", body, coat),
        Part("neck", neck, coat),
        Part("head", head, coat),
        Part("tail", tail, coat),
        Part("legs", legs, coat),
        Part("belly", low, look.paint(belly_color, "rubber")),
        Part("spikes", merged(*spikes), look.paint(spike_color, "rubber")),
        Part("eyes", eyes, look.paint("black" if look.color != "black" else "white")),
    ]
    return [Part(p.name, p.mesh.moved(0, -0.2, 0).scaled(size), p.surface) for p in parts]


def bunny(look: Look) -> list[Part]:
    tall, splay = look.between(0.9, 1.1), look.between(6, 16)
    fur = look.paint(material="plush", speck=0.35)
    pale = look.paint(look.other("white", "yellow"), "plush", speck=0.15)
    inside = look.paint(look.other("pink", "white"), "plush")
    dark = look.paint("black" if look.color != "black" else "white")
    body = ellipsoid(0.52, 0.55, 0.62).moved(0, 0.05, 0.62)
    head = merged(
        ellipsoid(0.42, 0.4, 0.4).moved(0, -0.12, 1.42),
        *(ellipsoid(0.17, 0.15, 0.14).moved(0.14 * s, -0.44, 1.32) for s in SIDES),
    )
    ears, inner, arms, feet, eyes = [], [], [], [], []
    for s in SIDES:
        ear = ellipsoid(0.17, 0.1, 0.52 * tall).moved(0, 0, 0.46 * tall)
        hollow = ellipsoid(0.1, 0.05, 0.4 * tall).moved(0, -0.07, 0.47 * tall)
        ears.append(ear.turned("y", splay * s).moved(0.18 * s, 0, 1.7))
        inner.append(hollow.turned("y", splay * s).moved(0.18 * s, 0, 1.7))
        arm = spline([(0.4 * s, -0.15, 0.95), (0.5 * s, -0.42, 0.75), (0.3 * s, -0.58, 0.62)], 6)
        arms.append(tube(arm, np.linspace(0.15, 0.13, len(arm))))
        feet.append(ellipsoid(0.19, 0.42, 0.17).moved(0.32 * s, -0.48, 0.17))
        eyes.append(ellipsoid(0.075, segments=14).moved(0.2 * s, -0.45, 1.53))
    parts = [
        Part("body", merged(body, *arms), fur),
        Part("head", head, fur),
        Part("ears", merged(*ears), fur),
        Part("inner ears", merged(*inner), inside),
        Part("belly", ellipsoid(0.36, 0.14, 0.42).moved(0, -0.42, 0.62), pale),
        Part("paws", merged(*feet), pale),
        Part("tail", ellipsoid(0.24).moved(0, 0.64, 0.34), pale),
        Part("nose", ellipsoid(0.1, 0.07, 0.07, 18).moved(0, -0.58, 1.41), look.paint("pink")),
        Part("eyes", merged(*eyes), dark),
    ]
    return sized(parts, 0.9)


def penguin(look: Look) -> list[Part]:
    size = look.between(0.92, 1.08)
    material = str(look.rng.choice(["plush", "rubber"]))
    coat = look.paint(material=material, speck=0.2)
    white = look.paint("white", material)
    beak_color = look.paint(look.other("orange", "yellow"), "rubber")
    foot_color = look.paint(look.other("orange", "yellow"), "rubber")
    shape = spline(
        [(0, 0.05), (0.38, 0.1), (0.56, 0.5), (0.52, 0.95), (0.4, 1.3), (0.3, 1.45), (0.1, 1.5)], 6
    )
    body = lathe(shape).scaled(1, 0.9, 1)
    tail = ellipsoid(0.2, 0.3, 0.07).turned("x", -25).moved(0, 0.5, 0.17)
    head = ellipsoid(0.41, 0.4, 0.38).moved(0, -0.03, 1.66)
    front = lathe(shape[3:-3]).scaled(0.8, 0.8, 0.96).moved(0, -0.14, 0.02)
    cheeks = merged(*(ellipsoid(0.2, 0.2, 0.24).moved(0.15 * s, -0.24, 1.64) for s in SIDES))
    wings, feet, eyes = [], [], []
    for s in SIDES:
        flipper = ellipsoid(0.09, 0.22, 0.46).moved(0, 0, -0.4).turned("y", -24 * s)
        wings.append(flipper.moved(0.44 * s, 0.02, 1.24))
        feet.append(ellipsoid(0.2, 0.32, 0.08).moved(0.25 * s, -0.32, 0.08))
        eyes.append(ellipsoid(0.075, segments=14).moved(0.16 * s, -0.42, 1.74))
    beak = lathe(spline([(0.14, 0), (0.1, 0.16), (0.02, 0.32), (0, 0.33)], 5))
    beak = beak.scaled(1, 0.7, 1).turned("x", 95).moved(0, -0.36, 1.58)
    parts = [
        Part("body", merged(body, tail), coat),
        Part("head", head, coat),
        Part("belly", merged(front, cheeks), white),
        Part("wings", merged(*wings), coat),
        Part("beak", beak, beak_color),
        Part("paws", merged(*feet), foot_color),
        Part("eyes", merged(*eyes), look.paint("black")),
    ]
    return sized(parts, size)


def elephant(look: Look) -> list[Part]:
    size, flap = look.between(0.95, 1.08), look.between(15, 35)
    material = str(look.rng.choice(["plush", "rubber"]))
    coat = look.paint(material=material, speck=0.25)
    blanket_color = look.other("red", "blue", "yellow", "green", "purple", "orange")
    ear_color = look.other("pink", "pink", "white")
    body = ellipsoid(0.6, 0.78, 0.56).moved(0, 0.28, 0.98)
    tail = tube(spline([(0, 1.02, 1.1), (0, 1.14, 0.9), (0, 1.13, 0.62)], 5), 0.05, 8)
    legs = merged(
        *(merged(can(0.23, 0.8, 0.22)).moved(0.34 * s, y, 0) for s in SIDES for y in (-0.12, 0.68))
    )
    head = ellipsoid(0.44, 0.42, 0.46).moved(0, -0.62, 1.42)
    trunk_path = spline(
        [(0, -0.9, 1.35), (0, -1.16, 1.0), (0, -1.26, 0.6), (0, -1.42, 0.4), (0, -1.62, 0.52)], 8
    )
    trunk = tube(trunk_path, np.linspace(0.22, 0.11, len(trunk_path)))
    ears, inner, tusks, eyes = [], [], [], []
    for s in SIDES:
        ear = ellipsoid(0.44, 0.07, 0.5).moved(0.36 * s, 0, 0)
        lining = ellipsoid(0.32, 0.05, 0.38).moved(0.38 * s, -0.045, 0)
        ears.append(ear.turned("z", flap * s).moved(0.32 * s, -0.5, 1.42))
        inner.append(lining.turned("z", flap * s).moved(0.32 * s, -0.5, 1.42))
        tusk = spline([(0.2 * s, -0.9, 1.14), (0.27 * s, -1.14, 0.94), (0.26 * s, -1.4, 0.98)], 6)
        tusks.append(tube(tusk, np.linspace(0.085, 0.035, len(tusk))))
        eyes.append(ellipsoid(0.065, segments=14).moved(0.24 * s, -0.96, 1.56))
    saddle = lathe(
        np.stack([np.cos(a := np.radians(np.linspace(-5, 90, 12))), np.sin(a)], 1)
    ).scaled(0.63, 0.42, 0.6)
    parts = [
        Part("body", merged(body, tail), coat),
        Part("legs", legs, coat),
        Part("head", head, coat),
        Part("trunk", trunk, coat),
        Part("ears", merged(*ears), coat),
        Part("inner ears", merged(*inner), look.paint(ear_color, material)),
        Part("tusks", merged(*tusks), look.paint("white" if look.color != "white" else "yellow")),
        Part("blanket", saddle.moved(0, 0.32, 0.98), look.paint(blanket_color, "cloth")),
        Part("eyes", merged(*eyes), look.paint("black" if look.color != "black" else "white")),
    ]
    return [Part(p.name, p.mesh.moved(0, 0.15, 0).scaled(size * 0.9), p.surface) for p in parts]


def snowman(look: Look) -> list[Part]:
    low, middle, top = look.between(0.56, 0.64), look.between(0.42, 0.48), look.between(0.33, 0.37)
    scarf_color = look.other("red", "blue", "green", "orange", "purple")
    hat_color = look.other("black", "black", "brown", "blue", "red")
    z1, z2 = low, 1.83 * low + 0.72 * middle
    z3 = z2 + 0.8 * (middle + top)
    body = merged(ellipsoid(low).moved(0, 0, z1), ellipsoid(middle).moved(0, 0, z2))
    carrot = lathe(spline([(0.1, 0), (0.06, 0.26), (0.01, 0.5), (0, 0.5)], 5))
    brim = z3 + 0.72 * top
    hat = merged(
        can(top * 1.35, 0.07).moved(0, 0, brim), can(top * 0.82, 0.48, top * 0.86).moved(0, 0, brim)
    )
    buttons, twigs, eyes = [], [], []
    for angle in (-38, 0, 34):
        a = np.radians(angle)
        y, z = -middle * np.cos(a), z2 + middle * np.sin(a)
        buttons.append(ellipsoid(0.075, segments=14).moved(0, y, z))
    for angle in (-22, 20):
        a = np.radians(angle)
        buttons.append(
            ellipsoid(0.08, segments=14).moved(0, -low * np.cos(a), z1 + low * np.sin(a))
        )
    for s in SIDES:
        a, b = np.array([0.35 * s, 0, z2 + 0.08]), np.array([1.0 * s, -0.1, z2 + 0.42])
        fork = a + 0.72 * (b - a)
        twigs.append(tube([a, b], [0.055, 0.035], 8))
        twigs.append(tube([fork, fork + np.array([0.2 * s, -0.06, -0.04])], 0.033, 8))
        twigs.append(tube([fork, fork + np.array([0.0, 0.03, 0.24])], 0.033, 8))
        eyes.append(ellipsoid(0.06, segments=14).moved(0.14 * s, -0.9 * top, z3 + 0.12))
    neck = z2 + 0.84 * middle
    around = tube(arc(0.3, 0, 360, 30), 0.11).turned("x", 90).moved(0, 0, neck)
    end = spline([(0.2, -0.26, neck), (0.26, -0.44, neck - 0.2), (0.27, -0.5, neck - 0.55)], 6)
    parts = [
        Part("body", body, look.paint(material="plush")),
        Part("head", ellipsoid(top).moved(0, 0, z3), look.paint(material="plush")),
        Part("top hat", hat, look.paint(hat_color, "cloth")),
        Part("scarf", merged(around, tube(end, 0.1)), look.paint(scarf_color, "cloth")),
        Part("nose", carrot.turned("x", 90).moved(0, -0.9 * top, z3), look.paint("orange", "skin")),
        Part("arms", merged(*twigs), look.paint("brown", "wood")),
        Part("button", merged(*buttons), look.paint("black", "stone")),
        Part("eyes", merged(*eyes), look.paint("black", "stone")),
    ]
    return sized(parts, 0.86)


def castle(look: Look) -> list[Part]:
    half, high, tall = look.between(0.62, 0.7), look.between(0.68, 0.8), look.between(1.15, 1.3)
    material = str(look.rng.choice(["stone", "wood", "plastic"]))
    roof_color = look.other("red", "blue", "purple", "green", "orange")
    flag_color = look.other("yellow", "white", "red", "blue")
    coat = look.paint(material=material, speck=0.3)
    walls = [box(2 * half, 2 * half, high, 0.02)]
    for side in range(4):
        for x in (-0.42, -0.14, 0.14, 0.42):
            tooth = box(0.14, 0.14, 0.16, 0.01).moved(x * half * 1.5, -half + 0.07, high)
            walls.append(tooth.turned("z", 90 * side))
    towers, roofs, flags, slits = [], [], [], []

    def tower(x: float, y: float, radius: float, top: float) -> None:
        rim = lathe(
            [(radius, top - 0.16), (radius * 1.2, top - 0.1)],
            [(radius * 1.2, top - 0.1), (radius * 1.2, top)],
            [(radius * 1.2, top), (0, top)],
        )
        towers.append(merged(can(radius, top - 0.1), rim).moved(x, y, 0))
        cone = lathe([(0, 0), (radius * 1.35, 0)], [(radius * 1.35, 0), (0.0, radius * 2.5)])
        roofs.append(cone.moved(x, y, top))
        for turn in (0, 90, 180, 270):
            slit = box(0.1, 0.06, 0.22, 0.02).moved(0, -radius, top - 0.45)
            slits.append(slit.turned("z", turn).moved(x, y, 0))

    for x in SIDES:
        for y in SIDES:
            tower(x * half, y * half, 0.27, tall)
    tower(0, 0.08, 0.36, tall + 0.5)
    tip = tall + 0.5 + 0.36 * 2.4
    flags.append(tube([(0, 0.08, tip - 0.1), (0, 0.08, tip + 0.42)], 0.03, 8))
    flags.append(upright([(0, 0), (0, 0.28), (0.46, 0.14)], 0.05).moved(0, 0.08, tip + 0.13))
    arch = np.concatenate([[(-0.24, 0), (0.24, 0)], arc(0.24, 0, 180, 14)[:, [0, 2]] + [0, 0.28]])
    gate = upright(arch, 0.12).moved(0, -half, 0)
    parts = [
        Part("walls", merged(*walls), coat),
        Part("towers", merged(*towers), coat),
        Part("roof", merged(*roofs), look.paint(roof_color, material)),
        Part("gate", gate, look.paint(look.other("brown", "black"), "wood")),
        Part("windows", merged(*slits), look.paint(look.other("black", "yellow"))),
        Part("flag", merged(*flags), look.paint(flag_color, "cloth")),
    ]
    return sized(parts, 0.82)


def guitar(look: Look) -> list[Part]:
    size, lean = look.between(0.84, 0.92), look.between(10, 15)
    neck_color = look.other("brown", "black")
    guard_color = look.other("white", "yellow", "red")
    half = spline(
        [
            (0, 0),
            (0.36, 0.06),
            (0.52, 0.34),
            (0.44, 0.64),
            (0.31, 0.82),
            (0.38, 1.06),
            (0.28, 1.26),
            (0, 1.3),
        ],
        6,
    )
    outline = np.concatenate([half, half[-2:0:-1] * [-1, 1]])
    deep = 0.28
    front = -deep / 2
    body = upright(outline, deep)
    guard = ellipsoid(0.13, 0.02, 0.24).turned("y", -22).moved(0.22, front, 0.66)
    hole = can(0.18, 0.03).turned("x", 90).moved(0, front, 0.84)
    rosette = can(0.23, 0.02).turned("x", 90).moved(0, front, 0.84)
    neck = box(0.15, 0.1, 1.15, 0.03).moved(0, front, 0.98)
    head = upright([(-0.11, 0), (0.11, 0), (0.17, 0.4), (-0.17, 0.4)], 0.1)
    pegs = [
        ellipsoid(0.07, 0.04, 0.045, 12).moved(0.2 * s, 0, z)
        for s in SIDES
        for z in (0.1, 0.22, 0.34)
    ]
    bridge = box(0.42, 0.06, 0.1, 0.02).moved(0, front - 0.02, 0.34)
    wires = [
        box(0.014, 0.014, 1.75, 0.003).moved(x, front - 0.065, 0.38) for x in (-0.045, 0, 0.045)
    ]

    def leant(mesh: Mesh) -> Mesh:
        return mesh.turned("x", -lean).moved(0, -0.12, 0.22)

    # Two feet in front carry the body; a third behind supports its back.
    back = np.array([0, 0.28, 0.9])
    stand = [tube([back, (0, 0.62, 0.05)], 0.045, 8)]
    for s in SIDES:
        stand.append(tube([back, (0.42 * s, -0.1, 0.05)], 0.045, 8))
        stand.append(tube([(0.3 * s, 0.05, 0.24), (0.3 * s, -0.42, 0.2)], 0.045, 8))
        stand.append(tube([(0.3 * s, -0.42, 0.2), (0.3 * s, -0.44, 0.32)], 0.045, 8))
    parts = [
        Part("body", leant(body), look.paint(material="wood")),
        Part("pickguard", leant(merged(guard, rosette)), look.paint(guard_color)),
        Part("sound hole", leant(hole), look.paint("black")),
        Part("neck", leant(neck), look.paint(neck_color, "wood")),
        Part(
            "headstock",
            leant(merged(head, *pegs).moved(0, front + 0.02, 2.1)),
            look.paint(neck_color, "wood"),
        ),
        Part("bridge", leant(bridge), look.paint("black", "wood")),
        Part("strings", leant(merged(*wires)), look.paint(look.other("grey", "white"), "metal")),
        Part(
            "stand",
            merged(*stand),
            look.paint("black" if look.color != "black" else "grey", "metal"),
        ),
    ]
    return sized(parts, size)


def spinner(look: Look) -> list[Part]:
    wide, high, lean = look.between(0.62, 0.74), look.between(0.9, 1.05), look.between(6, 16)
    material = str(look.rng.choice(["wood", "plastic", "metal"]))
    band_color = look.other("yellow", "white", "red", "blue", "green")
    low_color = look.other("red", "blue", "yellow", "white", "purple")
    under = spline([(0.1, 0.16), (0.3, 0.3), (0.8, 0.52), (0.97, 0.62)], 6) * [wide, high]
    around = spline([(0.97, 0.62), (1.03, 0.69), (0.97, 0.76)], 6) * [wide, high]
    over = spline([(0.97, 0.76), (0.7, 0.86), (0.3, 0.97), (0.12, 1.05)], 6) * [wide, high]
    point = lathe([(0, 0), (0.03, 0.0)], [(0.03, 0.0), (0.13 * wide + 0.03, 0.18 * high)])
    knob = merged(can(0.09, 0.42), ellipsoid(0.15, 0.15, 0.12).moved(0, 0, 0.42))
    parts = [
        Part("tip", point, look.paint(look.other("grey", "black"), "metal")),
        Part("bottom", lathe(under), look.paint(low_color, material)),
        Part("rim", lathe(around), look.paint(band_color, material)),
        Part("body", lathe(over), look.paint(material=material)),
        Part("handle", knob.moved(0, 0, high), look.paint(look.other("brown", "black", "red"))),
    ]
    turn = look.between(0, 360)
    return [Part(p.name, p.mesh.turned("x", lean).turned("z", turn), p.surface) for p in parts]


def bus(look: Look) -> list[Part]:
    long, high = look.between(2.0, 2.3), look.between(0.82, 0.95)
    roof_color = look.other("white", "white", "yellow", "black")
    body = box(0.92, long, high, 0.1).moved(0, 0, 0.2)
    stripe = box(0.96, long + 0.03, 0.1, 0.03).moved(0, 0, 0.42)
    roof = box(0.86, long * 0.96, 0.2, 0.09).moved(0, 0, 0.14 + high)
    pane = 0.42 * high
    panes = [box(0.74, long + 0.04, pane, 0.03).moved(0, 0, 0.2 + 0.46 * high)]
    count = 5
    for k in range(count):
        y = (k - (count - 1) / 2) * long * 0.185
        panes.append(box(0.96, long * 0.15, pane, 0.03).moved(0, y, 0.2 + 0.46 * high))
    door = box(0.05, 0.34, high * 0.78, 0.015).moved(0.465, -long * 0.37, 0.24)
    wheels = [
        wheel(0.25, 0.18).moved(0.42 * s, y * long, 0.25) for s in SIDES for y in (-0.27, 0.3)
    ]
    lights = [ellipsoid(0.11, 0.05, 0.11, 16).moved(0.3 * s, -long / 2 - 0.01, 0.4) for s in SIDES]
    return [
        Part("body", body, look.paint()),
        Part("roof", roof, look.paint(roof_color)),
        Part("stripe", stripe, look.paint(look.other("black", "white", "red"))),
        Part(
            "windows",
            merged(*panes),
            look.paint("turquoise" if look.color != "turquoise" else "black", "skin"),
        ),
        Part("door", door, look.paint(look.other("white", "red", "black", "blue"))),
        Part("wheels", merged(*wheels), look.paint("black" if look.color != "black" else "grey")),
        Part(
            "headlights",
            merged(*lights),
            look.paint("yellow" if look.color != "yellow" else "white"),
        ),
    ]


KINDS: dict[str, Kind] = {
    "toy train": Kind(
        train, ANY, 1.3, names=("train", "locomotive"), unheard=("steam engine", "railway engine")
    ),
    "airplane": Kind(
        airplane, ANY, 1.35, names=("plane", "toy plane"), unheard=("aeroplane", "aircraft")
    ),
    "rocket": Kind(
        rocket, ANY, 0.85, names=("toy rocket", "space rocket"), unheard=("spaceship", "spacecraft")
    ),
    "robot": Kind(robot, ANY, 0.95, names=("toy robot", "android"), unheard=("droid", "humanoid")),
    "sailboat": Kind(
        sailboat, ANY, 1.2, names=("boat", "sailing boat"), unheard=("yacht", "sailing ship")
    ),
    "drum": Kind(drum, ANY, 0.95, names=("toy drum", "snare drum"), unheard=("bongo", "tom-tom")),
    "building blocks": Kind(
        blocks, ANY, 0.85, names=("blocks", "toy blocks"), unheard=("toy bricks", "toy cubes")
    ),
    "stacking rings": Kind(
        rings,
        ANY,
        0.85,
        names=("ring stacker", "ring tower"),
        unheard=("stacking toy", "ring pyramid"),
    ),
    "dinosaur": Kind(
        dinosaur, ANY, 1.5, names=("toy dinosaur", "brontosaurus"), unheard=("dino", "sauropod")
    ),
    "bunny": Kind(
        bunny,
        ("white", "grey", "brown", "pink", "blue", "yellow", "purple", "turquoise", "black"),
        1.0,
        names=("rabbit", "plush rabbit", "toy rabbit"),
        unheard=("hare", "stuffed bunny"),
    ),
    "penguin": Kind(
        penguin,
        ("black", "black", "blue", "grey", "purple", "turquoise", "pink", "green", "red"),
        0.82,
        names=("toy penguin",),
        unheard=("emperor penguin",),
    ),
    "elephant": Kind(
        elephant,
        ("grey", "grey", *ANY),
        1.45,
        names=("toy elephant", "baby elephant"),
        unheard=("mammoth",),
    ),
    "snowman": Kind(snowman, ("white",), 1.0, names=("snow man",), unheard=("snow figure",)),
    "castle": Kind(castle, ANY, 1.15, names=("toy castle", "fortress"), unheard=("palace", "fort")),
    "guitar": Kind(
        guitar, ANY, 0.7, names=("acoustic guitar",), unheard=("ukulele", "string instrument")
    ),
    "spinning top": Kind(
        spinner, ANY, 0.85, names=("toy top",), unheard=("humming top", "whirligig")
    ),
    "bus": Kind(bus, ANY, 1.3, names=("toy bus", "school bus"), unheard=("coach", "minibus")),
}

# The parts of these kinds and their names; the first is the part's own.
PART_WORDS: dict[str, tuple[str, ...]] = {
    "boiler": ("boiler",),
    "cabin": ("cabin", "driver's cab"),
    "chassis": ("chassis",),
    "tail": ("tail",),
    "cockpit": ("cockpit",),
    "propeller": ("propeller",),
    "nose cone": ("nose cone",),
    "fins": ("fins", "fin"),
    "nozzle": ("nozzle", "thruster"),
    "chest": ("chest", "chest panel"),
    "mouth": ("mouth",),
    "antenna": ("antenna", "antennas"),
    "arms": ("arms", "arm"),
    "hull": ("hull",),
    "deck": ("deck",),
    "mast": ("mast",),
    "sails": ("sails", "sail"),
    "flag": ("flag", "pennant"),
    "shell": ("shell",),
    "drumhead": ("drumhead", "drum skin"),
    "hoops": ("hoops", "hoop"),
    "cords": ("cords", "drum cords"),
    "drumsticks": ("drumsticks", "drumstick"),
    "cubes": ("cubes", "cube", "block"),
    "letters": ("letters", "letter"),
    "rings": ("rings", "ring"),
    "knob": ("knob",),
    "spikes": ("spikes", "plates on the back"),
    "inner ears": ("inner ears", "inside of the ears"),
    "trunk": ("trunk",),
    "tusks": ("tusks", "tusk"),
    "blanket": ("blanket", "saddle"),
    "top hat": ("top hat", "snowman's hat"),
    "scarf": ("scarf",),
    "towers": ("towers", "tower"),
    "gate": ("gate", "castle gate"),
    "pickguard": ("pickguard", "scratch plate"),
    "sound hole": ("sound hole",),
    "headstock": ("headstock",),
    "bridge": ("bridge",),
    "strings": ("strings", "string"),
    "bottom": ("bottom", "lower half"),
    "stripe": ("stripe",),
}
