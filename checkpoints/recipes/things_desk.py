"""Things of a desk: laptop, keyboard, scissors, camera, telephone, globe, fan, glasses ..."""

import numpy as np
from look import ANY, Kind, Look, Part, mottle, vessel
from meshes import Mesh, Points, arc, box, ellipsoid, extrude, lathe, merged, spline, tube


def _slab(outline: Points, wide: float) -> Mesh:
    """A side view, points of (y, z), extruded by `wide` along x, centred at x = 0."""
    return extrude(outline, wide).turned("x", 90).turned("z", 90).moved(-wide / 2)


def _hoop(radius: float, thick: float) -> Mesh:
    """A ring about z."""
    return tube(arc(radius, 0, 360, 41), thick).turned("x", 90)


def _drum(radius: float, high: float) -> Mesh:
    """A cylinder with closed ends, standing on z = 0."""
    wall = [(radius, 0), (radius, high)]
    return lathe([(0, 0), (radius, 0)], wall, [(radius, high), (0, high)])


def _only(mesh: Mesh, keep: np.ndarray) -> Mesh:
    """The mesh with only the triangles for which keep [F] holds."""
    return Mesh(mesh.vertices, mesh.normals, mesh.uv, mesh.faces[keep])


def _centers(mesh: Mesh) -> np.ndarray:
    """Centres of the triangles, [F, 3]."""
    return mesh.vertices[mesh.faces].mean(axis=1)


def _keys(columns: int, rows: int, x: float, y: float, high: float = 0.07) -> Mesh:
    """A field of keys, x by y, standing on z = 0 about the origin."""
    step = np.array([x / columns, y / rows])
    key = box(step[0] * 0.8, step[1] * 0.8, high, 0.02)
    return merged(
        *(
            key.moved((i - (columns - 1) / 2) * step[0], (j - (rows - 1) / 2) * step[1])
            for i in range(columns)
            for j in range(rows)
        )
    )


def laptop(look: Look) -> list[Part]:
    wide, deep, lean = look.between(1.8, 2.1), look.between(1.25, 1.4), look.between(10, 25)
    case = look.paint(material=str(look.rng.choice(["metal", "plastic"])))
    key = look.paint(look.other("black", "white", "grey"))
    # The lid is built upright, then tilted back about the hinge.
    up = lambda mesh: mesh.turned("x", -lean).moved(0, deep / 2 - 0.04, 0.1)  # noqa: E731
    picture = look.other("blue", "turquoise", "white", "green", "purple", "orange")
    return [
        Part("body", box(wide, deep, 0.12, 0.04), case),
        Part("keys", _keys(9, 4, wide * 0.88, deep * 0.5).moved(0, deep * 0.14, 0.09), key),
        Part(
            "touchpad", box(wide * 0.3, deep * 0.22, 0.03, 0.01).moved(0, -deep * 0.32, 0.11), key
        ),
        Part("lid", up(box(wide, 0.09, deep * 0.95, 0.04)), case),
        Part(
            "screen",
            up(box(wide * 0.9, 0.03, deep * 0.79, 0.01).moved(0, -0.045, deep * 0.09)),
            look.paint(picture, "glass", glow=0.25, speck=0.3),
        ),
    ]


def keyboard(look: Look) -> list[Part]:
    wide, deep = look.between(2.1, 2.4), look.between(0.8, 0.95)
    rise = 0.14 / deep
    side = [(-deep / 2, 0), (deep / 2, 0), (deep / 2, 0.26), (-deep / 2, 0.12)]
    tilt = lambda mesh: mesh.turned("x", np.degrees(np.arctan(rise))).moved(0, 0, 0.17)  # noqa: E731
    cord = spline([(0.3, deep / 2, 0.12), (0.3, deep * 0.72, 0.05), (0.05, deep * 0.85, 0.05)], 6)
    cap = look.paint(look.other("white", "black", "grey"))
    bar = look.paint(look.other("red", "yellow", "blue", "green", "turquoise"))
    row = deep * 0.88 / 4
    lower = [
        _keys(3, 1, wide * 0.25, row).moved(x * wide * 0.345, -1.5 * row, 0) for x in (-1.0, 1.0)
    ]
    field = merged(_keys(11, 3, wide * 0.94, row * 3).moved(0, row / 2, 0), *lower)
    space = box(wide * 0.42, row * 0.8, 0.1, 0.02).moved(0, -1.5 * row, 0)
    return [
        Part("body", _slab(side, wide), look.paint()),
        Part("keys", tilt(field.scaled(1, 1, 1.4)), cap),
        Part("space bar", tilt(space), bar),
        Part("cord", tube(cord, 0.04, 10), look.paint("black")),
    ]


def mouse(look: Look) -> list[Part]:
    long, high = look.between(0.85, 0.95), look.between(0.36, 0.42)
    curve = spline([(0.96, 0), (1, 0.2), (0.93, 0.55), (0.7, 0.85), (0.35, 0.98), (0, 1)], 6)
    dome = lathe([(0, 0), (0.96, 0)], curve, segments=72).scaled(0.5, long, high)
    shell = lathe(curve, segments=72).scaled(0.5, long, high).scaled(1.04)
    at = _centers(shell)
    fronts = _only(shell, (at[:, 1] < -0.16) & (np.abs(at[:, 0]) > 0.07) & (at[:, 2] > 0.5 * high))
    wheel = lathe(
        [(0, -0.06), (0.13, -0.06)],
        [(0.13, -0.06), (0.17, -0.03), (0.17, 0.03), (0.13, 0.06)],
        [(0.13, 0.06), (0, 0.06)],
    )
    cord = spline(
        [
            (0, -long * 0.9, 0.12),
            (0, -long - 0.15, 0.05),
            (0.35, -long - 0.2, 0.05),
            (0.75, -long + 0.1, 0.05),
            (0.72, -0.2, 0.05),
        ],
        6,
    )
    return [
        Part("body", dome, look.paint()),
        Part("mouse buttons", fronts, look.paint(look.other("white", "black", "grey"))),
        Part(
            "scroll wheel",
            wheel.turned("y", 90).moved(0, -long * 0.48, high * 0.9),
            look.paint(look.other("red", "black", "green", "blue"), "rubber"),
        ),
        Part("cord", tube(cord, 0.055, 10), look.paint("black", "rubber")),
    ]


def monitor(look: Look) -> list[Part]:
    wide, high, low = look.between(2.0, 2.3), look.between(1.25, 1.4), look.between(0.5, 0.65)
    coat = look.paint()
    foot = look.paint(look.other("grey", "black", "white"), "metal")
    picture = look.other("blue", "turquoise", "green", "white", "purple", "orange")
    back = box(wide * 0.55, 0.2, high * 0.5, 0.08).moved(0, 0.1, low + high * 0.25)
    return [
        Part("body", merged(box(wide, 0.14, high, 0.05).moved(0, 0, low), back), coat),
        Part(
            "screen",
            box(wide - 0.2, 0.03, high - 0.24, 0.01).moved(0, -0.07, low + 0.14),
            look.paint(picture, "glass", glow=0.25, speck=0.3),
        ),
        Part("stand", box(0.28, 0.12, low + high * 0.4, 0.03).moved(0, 0.2, 0.04), foot),
        Part("base", _drum(0.55, 0.08).scaled(1.15, 0.85, 1).moved(0, 0.1, 0), foot),
    ]


def pencil_cup(look: Look) -> list[Part]:
    radius, height = look.between(0.42, 0.5), look.between(0.85, 1.05)
    outer = np.array([(radius * 0.95, 0), (radius, 0.05), (radius, height)])
    material = str(look.rng.choice(["metal", "wood", "ceramic", "plastic"]))
    wood = look.other("yellow", "yellow", "red", "green", "blue")
    sticks, tips, leads = [], [], []
    for k in range(6):
        turn, lean = 60 * k + look.between(-12, 12), look.between(8, 15)
        long = height + look.between(0.45, 0.75)
        stand = lambda m, t=turn, s=lean: m.turned("y", s).turned("z", t).moved(0, 0, 0.08)  # noqa: E731
        sticks.append(stand(_drum(0.075, long)))
        tips.append(stand(lathe([(0.075, long), (0.035, long + 0.15)], segments=24)))
        leads.append(stand(lathe([(0.035, long + 0.15), (0, long + 0.24)], segments=24)))
    ruler = box(0.26, 0.04, height + 0.95, 0.01).turned("x", -9).moved(0, 0.12, 0.06)
    dark = look.paint(wood if wood != "yellow" else "black")
    return [
        Part("body", lathe(*vessel(outer, 0.05)), look.paint(material=material)),
        Part("pencils", merged(*sticks), look.paint(wood, "wood")),
        Part("tip", merged(*tips), look.paint("orange", "wood")),
        Part("pencil leads", merged(*leads), dark),
        Part("ruler", ruler, look.paint(look.other("white", "turquoise", "orange"))),
    ]


def scissors(look: Look) -> list[Part]:
    spread, long = look.between(14, 22), look.between(1.35, 1.5)
    grip, steel = look.paint(), look.paint("grey", "metal")
    blades, loops = [], []
    for side in (-1, 1):
        edge = [(0.15, 0.25), (-0.15, 0.25), (-0.19, -0.3), (-0.1 * side, -long), (0.19, -0.3)]
        blades.append(
            extrude(edge, 0.07).moved(0, 0, 0.11 + 0.035 * side).turned("z", spread * side)
        )
        loop = np.stack([0.27 * np.cos(a := np.linspace(0, 2 * np.pi, 37)), 0.34 * np.sin(a)], 1)
        ring = tube(np.column_stack([loop, 0 * a]), 0.1).moved(-0.1 * side, 0.85, 0)
        shank = tube(np.array([(0, 0.2, 0), (-0.03 * side, 0.6, 0)]), 0.12)
        loops.append(merged(ring, shank).moved(0, 0, 0.14).turned("z", spread * side))
    return [
        Part("blades", merged(*blades), steel),
        Part("handle", merged(*loops), grip),
        Part("screw", ellipsoid(0.11, 0.11, 0.06).moved(0, 0, 0.22), look.paint("yellow", "metal")),
    ]


def stapler(look: Look) -> list[Part]:
    long, lift = look.between(0.95, 1.1), look.between(9, 14)
    coat, steel = look.paint(), look.paint("grey", "metal")
    foot = look.paint(look.other("black", "black", "grey"))
    crown = spline(
        [
            (-long, 0.16),
            (-long, 0.3),
            (-long * 0.7, 0.4),
            (0, 0.42),
            (long * 0.7, 0.38),
            (long, 0.1),
        ],
        5,
    )
    hump = _slab(np.concatenate([[(long, 0), (-long * 0.95, 0.1)], crown]), 0.46)
    rail = box(0.34, long * 1.9, 0.16, 0.02).moved(0, 0, -0.09)
    # The arm is turned about the hinge at the back, so its front end is in the air.
    open_ = lambda m: m.moved(0, -long, 0).turned("x", -lift).moved(0, long, 0.22)  # noqa: E731
    hinge = tube(np.array([(-0.24, 0, 0), (0.24, 0, 0)]), 0.13).moved(0, long * 0.92, 0.2)
    return [
        Part("body", open_(hump), coat),
        Part("rail", open_(rail), steel),
        Part("base", box(0.5, long * 2.05, 0.13, 0.05), foot),
        Part("hinge", hinge, steel),
    ]


def headphones(look: Look) -> list[Part]:
    radius, high = look.between(0.72, 0.82), look.between(0.5, 0.6)
    shell, pad = look.paint(), look.paint(look.other("black", "white", "grey", "brown"), "leather")
    bow = arc(radius, -8, 188, 36)
    cups, pads = [], []
    for side in (-1, 1):
        cups.append(ellipsoid(0.2, 0.42, 0.48).moved((radius + 0.02) * side, 0, 0.48))
        soft = _hoop(0.27, 0.14).scaled(1.1, 0.95, 1).turned("y", 90)
        fill = ellipsoid(0.05, 0.3, 0.3)
        pads.append(merged(soft, fill).moved((radius - 0.17) * side, 0, 0.48))
    band = tube(bow, 0.075).scaled(1, 2.2, 1.15).moved(0, 0, high + 0.3)
    cushion = tube(arc(radius - 0.09, 40, 140, 20), 0.08).scaled(1, 2.2, 1.1)
    return [
        Part("headband", band, look.paint(look.other("black", "grey", "white"))),
        Part("ear cups", merged(*cups), shell),
        Part("ear pads", merged(*pads, cushion.moved(0, 0, high + 0.3)), pad),
    ]


def camera(look: Look) -> list[Part]:
    wide, high = look.between(1.6, 1.85), look.between(0.95, 1.1)
    radius = high * look.between(0.38, 0.42)
    coat = look.paint(material=str(look.rng.choice(["plastic", "leather"])))
    top = look.paint(look.other("grey", "black", "white"), "metal")
    front = lambda mesh: mesh.turned("x", 90).moved(0, -0.28, high * 0.47)  # noqa: E731
    barrel = lathe(
        [(radius * 1.15, 0), (radius * 1.15, 0.12)],
        [(radius * 1.15, 0.12), (radius, 0.12)],
        [(radius, 0.12), (radius, 0.5)],
        [(radius, 0.5), (radius * 0.75, 0.5), (radius * 0.7, 0.42)],
    )
    glass = lathe(spline([(radius * 0.72, 0.42), (radius * 0.4, 0.5), (0, 0.52)], 5))
    bulge = merged(
        box(wide, 0.6, high * 0.8, 0.09), box(0.42, 0.75, high * 0.8, 0.1).moved(wide * 0.38)
    )
    plate = merged(
        box(wide * 0.98, 0.56, high * 0.24, 0.06).moved(0, 0, high * 0.76),
        _slab([(-0.3, 0), (0.28, 0), (0.2, 0.24), (-0.28, 0.24)], 0.56).moved(0, 0, high * 0.98),
    )
    display = box(wide * 0.6, 0.06, high * 0.52, 0.02).moved(-wide * 0.1, 0.3, high * 0.14)
    lamp = box(0.42, 0.08, 0.2, 0.02).moved(0, -0.31, high * 1.0)
    button = _drum(0.12, 0.12).moved(wide * 0.34, -0.08, high)
    return [
        Part("body", bulge, coat),
        Part("top plate", plate, top),
        Part("lens", front(barrel), look.paint("black" if look.color != "black" else "grey")),
        Part("lens glass", front(glass), look.paint(look.other("blue", "purple"), "glass")),
        Part("screen", display, look.paint(look.other("turquoise", "blue", "grey"), "glass")),
        Part("flash", lamp, look.paint("white", "glass", glow=0.5)),
        Part("button", button, look.paint(look.other("red", "orange", "yellow"))),
    ]


def telephone(look: Look) -> list[Part]:
    coat = look.paint()
    wide = look.between(1.25, 1.4)
    side = [
        (-0.85, 0),
        (0.65, 0),
        (0.7, 0.15),
        (0.4, 0.85),
        (0.05, 0.88),
        (-0.8, 0.26),
        (-0.9, 0.12),
    ]
    slope = np.degrees(np.arctan2(0.62, 0.85))
    lay = lambda mesh: mesh.turned("x", slope).moved(0, -0.39, 0.56)  # noqa: E731
    turns = np.radians(np.arange(-30, 271, 33))
    holes = [_drum(0.075, 0.02).moved(0.29 * np.cos(a), 0.29 * np.sin(a), 0.08) for a in turns]
    wheel = merged(lathe([(0.42, 0), (0.42, 0.08)], [(0.42, 0.08), (0, 0.08)]))
    reach = wide / 2 + 0.15
    arch = spline(
        [(-reach, 0, -0.05), (-reach * 0.7, 0, 0.1), (reach * 0.7, 0, 0.1), (reach, 0, -0.05)], 8
    )
    ends = []
    for s in (-1, 1):
        bell = lathe([(0, -0.22), (0.26, -0.22)], spline([(0.26, -0.22), (0.24, 0), (0, 0.12)], 6))
        ends.append(bell.turned("y", -8 * s).moved(reach * s, 0, -0.02))
    receiver = merged(tube(arch, 0.13), *ends).moved(0, 0.22, 1.12)
    fork = merged(*(box(0.16, 0.4, 0.26, 0.04).moved(0.36 * s, 0.22, 0.82) for s in (-1, 1)))
    t = np.linspace(0, 1, 150)
    run = spline(
        [(-reach, 0.22, 0.9), (-reach - 0.2, 0.1, 0.3), (-reach, 0.35, 0.1), (-0.5, 0.6, 0.12)], 50
    )[:150]
    coil = run + 0.06 * np.column_stack([np.cos(88 * t), np.sin(88 * t), np.sin(88 * t)])
    return [
        Part("body", _slab(side, wide), coat),
        Part("rotary dial", lay(wheel), look.paint(look.other("white", "grey", "yellow"), "metal")),
        Part("finger holes", lay(merged(*holes)), look.paint("black")),
        Part("handset", receiver, coat if look.rng.random() < 0.6 else look.paint("black")),
        Part("cradle", fork, look.paint(look.other("grey", "yellow"), "metal")),
        Part("cord", tube(coil, 0.035, 8), look.paint(look.other("black", "grey"), "rubber")),
    ]


def calculator(look: Look) -> list[Part]:
    wide, deep = look.between(1.15, 1.3), look.between(1.6, 1.8)
    low, high = 0.16, look.between(0.42, 0.55)
    side = [(-deep / 2, 0), (deep / 2, 0), (deep / 2, high), (-deep / 2, low)]
    tilt = np.degrees(np.arctan((high - low) / deep))
    lay = lambda mesh: mesh.turned("x", tilt).moved(0, 0, (low + high) / 2 - 0.02)  # noqa: E731
    step = wide * 0.88 / 4
    digits = _keys(3, 4, step * 3, deep * 0.58, 0.12).moved(-step / 2, -deep * 0.17, 0)
    signs = _keys(1, 4, step, deep * 0.58, 0.12).moved(step * 1.5, -deep * 0.17, 0)
    display = box(wide * 0.84, deep * 0.22, 0.07, 0.02).moved(0, deep * 0.32, 0)
    return [
        Part("body", _slab(side, wide), look.paint()),
        Part("screen", lay(display), look.paint(look.other("green", "grey", "turquoise"), "glass")),
        Part("keys", lay(digits), look.paint(look.other("white", "black", "grey"))),
        Part(
            "function keys", lay(signs), look.paint(look.other("orange", "red", "yellow", "blue"))
        ),
    ]


# Continents as ellipses: longitude and latitude of the centre, half the width and height.
_CONTINENTS = (
    (-105, 52, 34, 20),
    (-95, 30, 16, 14),
    (-60, -5, 22, 17),
    (-66, -32, 10, 22),
    (-42, 72, 18, 10),
    (15, 18, 30, 18),
    (24, -14, 17, 24),
    (18, 52, 26, 14),
    (85, 55, 58, 20),
    (80, 27, 18, 20),
    (110, 30, 20, 20),
    (134, -25, 21, 13),
    (0, -90, 200, 20),
)


def globe(look: Look) -> list[Part]:
    radius, tilt = look.between(0.68, 0.78), 23.0
    high = radius + look.between(0.45, 0.55)
    place = lambda mesh: mesh.turned("y", tilt).moved(0, 0, high)  # noqa: E731
    ball = ellipsoid(radius * 1.012, segments=144)
    at = _centers(ball)
    east = np.degrees(np.arctan2(at[:, 1], at[:, 0]))
    north = np.degrees(np.arcsin(np.clip(at[:, 2] / np.linalg.norm(at, axis=1), -1, 1)))
    noise = mottle(look.rng, 360)[(north + 180).astype(int) % 360, (east + 360).astype(int) % 360]
    turn = look.between(0, 360)
    land = np.zeros(len(at), bool)
    for x, y, a, b in _CONTINENTS:
        away = (east - x - turn + 540) % 360 - 180
        land |= (away / a) ** 2 + ((north - y) / b) ** 2 < 0.7 + 0.7 * noise
    metal = look.paint(look.other("yellow", "grey", "black"), "metal")
    bow = tube(arc(radius + 0.1, 80, 280, 36), 0.065)
    pins = tube(np.array([(0, 0, -radius - 0.12), (0, 0, radius + 0.12)]), 0.07)
    foot = lathe([(0, 0), (0.58, 0)], spline([(0.58, 0), (0.56, 0.1), (0.25, 0.17), (0.1, 0.3)], 6))
    neck = tube(np.array([(0, 0, 0.2), (-0.06, 0, high - radius - 0.08)]), 0.1)
    ground = look.other("green", "green", "yellow", "brown", "orange")
    return [
        Part("sea", place(ellipsoid(radius)), look.paint()),
        Part("land", place(_only(ball, land)), look.paint(ground, speck=0.3)),
        Part("stand", merged(place(merged(bow, pins)), neck), metal),
        Part("base", foot, look.paint(look.other("brown", "black"), "wood")),
    ]


def fan(look: Look) -> list[Part]:
    radius, low = look.between(0.72, 0.82), look.between(0.35, 0.45)
    middle = radius + low
    front = lambda mesh: mesh.turned("x", 90).moved(0, -0.12, middle)  # noqa: E731
    coat, wire = look.paint(), look.paint(look.other("grey", "white", "black"), "metal")
    cage = [_hoop(radius, 0.055)]
    for side in (-1, 1):
        dome = np.array([(0.16, 0.24), (0.5, 0.2), (0.8, 0.12), (1, 0)]) * [radius, side]
        path = np.column_stack([dome[:, 0], 0 * dome[:, 0], dome[:, 1]])
        cage += [tube(spline(path, 4), 0.02, 8).turned("z", 30 * k) for k in range(12)]
        cage.append(_hoop(radius * 0.55, 0.02).moved(0, 0, 0.19 * side))
    blades = []
    for k in range(3):
        leaf = ellipsoid(radius * 0.36, radius * 0.3, 0.03, 28).turned("x", 24)
        blades.append(leaf.moved(radius * 0.5, 0, 0).turned("z", 120 * k + 20))
    hub = merged(ellipsoid(0.17, 0.17, 0.09).moved(0, 0, 0.24), _drum(0.1, 0.3).moved(0, 0, -0.08))
    motor = lathe(
        spline([(0, -0.62), (0.2, -0.58), (0.27, -0.4), (0.24, -0.18)], 6),
        [(0.24, -0.18), (0, -0.18)],
    )
    stand = tube(np.array([(0, 0.28, 0.1), (0, 0.28, middle)]), 0.09)
    foot = lathe([(0, 0), (0.55, 0)], spline([(0.55, 0), (0.53, 0.1), (0.3, 0.18), (0, 0.2)], 6))
    return [
        Part(
            "blades",
            front(merged(*blades)),
            look.paint(look.other("white", "turquoise", "blue", "red", "black")),
        ),
        Part("cage", front(merged(*cage)), wire),
        Part("hub", front(hub), coat),
        Part("motor", front(motor), coat),
        Part("stand", stand, wire),
        Part("base", foot.moved(0, 0.15, 0), coat),
    ]


def glasses(look: Look) -> list[Part]:
    wide, high = look.between(0.4, 0.46), look.between(0.34, 0.42)
    angular = look.between(0.55, 1.0)  # 1 is round, less is squarer
    a = np.linspace(0, 2 * np.pi, 49)
    ring = np.stack([np.sign(np.cos(a)) * np.abs(np.cos(a)) ** angular, 0 * a], 1)
    ring[:, 1] = np.sign(np.sin(a)) * np.abs(np.sin(a)) ** angular
    ring = ring * [wide, high]
    up = lambda mesh: mesh.turned("x", 90).moved(0, -0.7, high + 0.075)  # noqa: E731
    frame = look.paint(material=str(look.rng.choice(["plastic", "plastic", "metal"])))
    panes, rims, arms = [], [], []
    for side in (-1, 1):
        x = side * (wide + 0.14)
        panes.append(extrude(ring[:-1], 0.03).moved(x, 0, -0.015))
        rims.append(tube(np.column_stack([ring, 0 * a]), 0.075).moved(x, 0, 0))
        far, z = side * (2 * wide + 0.16), high * 1.5
        path = spline(
            [(far, -0.7, z), (far, 0, z), (far, 0.55, z * 0.95), (far * 0.97, 0.85, 0.08)], 8
        )
        arms.append(tube(path, 0.065))
    bridge = tube(arc(0.17, 20, 160, 12) * [1, 1, 0.8], 0.065).moved(0, -0.7, high * 1.05)
    tint = look.other("white", "turquoise", "black", "black", "blue", "brown")
    return [
        Part("frame", merged(*(up(rim) for rim in rims), bridge), frame),
        Part("lens", up(merged(*panes)), look.paint(tint, "glass")),
        Part("temples", merged(*arms), frame),
    ]


def hourglass(look: Look) -> list[Part]:
    high, wide = look.between(1.7, 2.0), look.between(0.46, 0.54)
    wood = look.paint(material=str(look.rng.choice(["wood", "wood", "metal"])))
    z = np.linspace(0, 1, 25)
    bulb = np.column_stack([wide * (0.09 + 0.75 * np.sin(np.pi * z**0.75) ** 0.8), z])
    bulb[:, 1] *= high / 2 - 0.13
    bulb[0, 0], bulb[-1, 0] = wide * 0.3, 0.05
    lower = bulb + np.array([0, 0.13])
    upper = (bulb * [1, -1] + np.array([0, high - 0.13]))[::-1]
    glass = lathe(np.concatenate([lower, upper[1:]]))
    full = lower[:15] + np.array([0.012, 0])
    rest = upper[:12] + np.array([0.012, 0])
    heap = lathe(full, [full[-1], full[-1] - [0.03, -0.02]])
    plates = merged(_drum(wide + 0.12, 0.14), _drum(wide + 0.12, 0.14).moved(0, 0, high - 0.14))
    posts = merged(
        *(
            _drum(0.06, high - 0.1).moved(wide + 0.01, 0, 0.05).turned("z", 45 + 90 * k)
            for k in range(4)
        )
    )
    grain = look.paint(
        look.other("yellow", "orange", "pink", "blue", "red", "green"), "baked", speck=0.3
    )
    return [
        Part("base", plates, wood),
        Part("posts", posts, wood),
        Part("glass bulbs", glass, look.paint(look.other("white", "turquoise"), "glass")),
        Part("sand", merged(heap, lathe(rest)), grain),
    ]


def magnifier(look: Look) -> list[Part]:
    radius, long = look.between(0.62, 0.72), look.between(0.85, 1.0)
    grip = look.paint(material=str(look.rng.choice(["wood", "plastic"])))
    steel = look.paint(look.other("grey", "yellow", "black"), "metal")
    start = -radius - 0.2
    handle = lathe(
        [(0, 0), (0.09, 0)],
        spline([(0.09, 0), (0.13, long * 0.3), (0.15, long * 0.8), (0.1, long), (0, long)], 6),
    )
    middle = np.array([0, radius * 0.75, 0.16])
    lay = lambda mesh: mesh.moved(*middle)  # noqa: E731
    return [
        Part("rim", lay(_hoop(radius, 0.11)), steel),
        Part(
            "lens",
            lay(ellipsoid(radius, radius, 0.09)),
            look.paint(look.other("white", "turquoise"), "glass"),
        ),
        Part("neck", lay(tube(np.array([(0, -radius, 0), (0, start - 0.05, 0)]), 0.09)), steel),
        Part("handle", lay(handle.turned("x", 90).moved(0, start, 0)), grip),
    ]


KINDS: dict[str, Kind] = {
    "laptop": Kind(
        laptop, ANY, 1.4, names=("laptop computer",), unheard=("notebook computer", "macbook")
    ),
    "keyboard": Kind(
        keyboard, ANY, 1.3, names=("computer keyboard",), unheard=("qwerty keyboard",)
    ),
    "computer mouse": Kind(mouse, ANY, 1.2, names=("mouse",), unheard=("wireless mouse",)),
    "monitor": Kind(
        monitor,
        ANY,
        1.2,
        names=("computer monitor", "computer screen"),
        unheard=("display", "desktop screen"),
    ),
    "pencil cup": Kind(
        pencil_cup,
        ANY,
        0.6,
        names=("pencil holder", "pen holder"),
        unheard=("pencil pot", "cup of pens"),
    ),
    "scissors": Kind(scissors, ANY, 1.4, names=("pair of scissors",), unheard=("shears",)),
    "stapler": Kind(stapler, ANY, 1.15, names=("desk stapler",), unheard=("paper stapler",)),
    "headphones": Kind(
        headphones, ANY, 1.05, names=("headset",), unheard=("earphones", "headphone")
    ),
    "camera": Kind(camera, ANY, 1.05, names=("photo camera",), unheard=("digital camera", "dslr")),
    "telephone": Kind(
        telephone, ANY, 1.15, names=("phone", "rotary phone"), unheard=("landline", "old phone")
    ),
    "calculator": Kind(
        calculator, ANY, 1.1, names=("pocket calculator",), unheard=("adding machine",)
    ),
    "globe": Kind(
        globe,
        ("blue", "blue", "turquoise", "white", "black", "purple"),
        0.9,
        names=("world globe",),
        unheard=("planet earth", "world map"),
    ),
    "fan": Kind(
        fan, ANY, 0.85, names=("desk fan", "electric fan"), unheard=("ventilator", "table fan")
    ),
    "glasses": Kind(
        glasses,
        ANY,
        1.35,
        names=("eyeglasses", "pair of glasses"),
        unheard=("spectacles", "sunglasses"),
    ),
    "hourglass": Kind(
        hourglass,
        ("brown", "brown", *ANY),
        0.68,
        names=("sandglass",),
        unheard=("sand timer", "egg timer"),
    ),
    "magnifying glass": Kind(
        magnifier, ANY, 1.35, names=("magnifier",), unheard=("magnifying lens", "loupe")
    ),
}

# The parts of these kinds and their names; the first is the part's own.
PART_WORDS: dict[str, tuple[str, ...]] = {
    "keys": ("keys", "key"),
    "touchpad": ("touchpad", "trackpad"),
    "screen": ("screen",),
    "space bar": ("space bar",),
    "cord": ("cord", "cable", "wire"),
    "mouse buttons": ("mouse buttons", "mouse button"),
    "scroll wheel": ("scroll wheel",),
    "pencils": ("pencils", "pencil"),
    "pencil leads": ("pencil leads",),
    "ruler": ("ruler",),
    "blades": ("blades", "blade"),
    "screw": ("screw",),
    "rail": ("rail", "metal rail"),
    "hinge": ("hinge",),
    "headband": ("headband", "head band"),
    "ear cups": ("ear cups", "ear cup"),
    "ear pads": ("ear pads", "ear cushions", "padding"),
    "top plate": ("top plate",),
    "lens": ("lens", "lenses"),
    "lens glass": ("lens glass", "front glass"),
    "flash": ("flash", "camera flash"),
    "button": ("button", "buttons"),
    "rotary dial": ("rotary dial", "number dial"),
    "finger holes": ("finger holes",),
    "handset": ("handset", "receiver"),
    "cradle": ("cradle",),
    "function keys": ("function keys",),
    "sea": ("sea", "oceans"),
    "land": ("land", "continents", "continent"),
    "cage": ("cage", "grille", "fan guard"),
    "hub": ("hub",),
    "motor": ("motor",),
    "frame": ("frame",),
    "temples": ("temples", "glasses arms"),
    "posts": ("posts", "pillars"),
    "glass bulbs": ("glass bulbs", "bulbs"),
    "sand": ("sand",),
    "neck": ("neck",),
}
