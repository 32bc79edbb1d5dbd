"""Things of a kitchen, a garden and a wardrobe: pans, food, plants, clothes, doll's furniture."""

from dataclasses import replace

import numpy as np
from look import ANY, Kind, Look, Part, Surface, vessel
from meshes import Mesh, arc, box, disk, ellipsoid, extrude, lathe, merged, spline, tube

# Colours are always drawn after shapes: worlds that differ only in colours have the same shapes.


def _sheet(points: np.ndarray) -> Mesh:
    """A smooth surface through a grid of points [R, C, 3], R, C >= 2. Its normals point outwards
    if columns run anticlockwise, seen from above, and rows run up."""
    rows, columns = points.shape[:2]
    normals = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0)).reshape(-1, 3)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a = (i * columns + j).ravel()
    faces = np.concatenate(
        [np.stack([a, a + 1, a + columns], 1), np.stack([a + 1, a + columns + 1, a + columns], 1)]
    )
    return Mesh(points.reshape(-1, 3), normals, np.stack([u, v], -1).reshape(-1, 2), faces)


def _loft(rings: np.ndarray) -> Mesh:
    """A closed body with flat ends through rising rings [R, C, 3] that run anticlockwise."""
    wrapped = np.concatenate([rings[:, -2:], rings, rings[:, :3]], axis=1)  # no seam in normals
    rows, columns = wrapped.shape[:2]
    whole = _sheet(wrapped)
    cut = [
        field.reshape(rows, columns, -1)[:, 2:-2].reshape(rows * (columns - 4), -1)
        for field in (whole.vertices, whole.normals)
    ]
    side = _sheet(wrapped[:, 2:-2])
    side = replace(side, vertices=cut[0], normals=cut[1])
    ends = []
    for ring in (rings[0, ::-1], rings[-1]):
        loop = np.concatenate([ring, ring[:1]])
        cap = _sheet(np.stack([loop, np.broadcast_to(ring.mean(0), loop.shape)]))
        facing = cap.normals[: len(loop)].mean(0)
        facing /= np.linalg.norm(facing)
        ends.append(replace(cap, normals=np.broadcast_to(facing, cap.normals.shape)))
    return merged(side, *ends)


def _studs(
    profile: np.ndarray, count: int, size: tuple[float, float, float], jitter: np.ndarray | None
) -> Mesh:
    """`count` ellipsoids spread evenly over the lathe of a rising profile [S, 2]; size = semi-axes
    around it, along the profile and outwards; jitter [count, 2] shifts them."""
    step = np.linalg.norm(np.diff(profile, axis=0), axis=1)
    weight = step * (profile[1:, 0] + profile[:-1, 0])
    share = np.concatenate([[0], np.cumsum(weight)]) / weight.sum()
    out = []
    for k in range(count):
        shake = jitter[k] if jitter is not None else np.zeros(2)
        at = np.clip((k + 0.5) / count + shake[0], 0.01, 0.99)
        row = min(int(np.searchsorted(share, at)), len(profile) - 1)
        radius, z = (np.interp(at, share, profile[:, i]) for i in (0, 1))
        dr, dz = (profile[row] - profile[row - 1]) / step[row - 1]
        angle = 2.39996 * k + shake[1]
        c, s = np.cos(angle), np.sin(angle)
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1] = (-s, c, 0), (dr * c, dr * s, dz)
        pose[:3, 2], pose[:3, 3] = (dz * c, dz * s, -dr), (radius * c, radius * s, z)
        out.append(ellipsoid(*size, segments=12).bent(pose))
    return merged(*out)


def _sector(radius: float, start: float, end: float, low: float, high: float) -> Mesh:
    """A piece of a cake from one angle to another, in degrees."""
    rim = arc(radius, start, end, 40)[:, [0, 2]]
    return extrude(np.concatenate([[(0, 0)], rim]), high - low).moved(0, 0, low)


def _rod(first: tuple[float, ...], last: tuple[float, ...], radius: float) -> Mesh:
    return tube(np.array([first, last]), radius)


def _ring(radius: float, thick: float, z: float) -> Mesh:
    a = np.radians(np.linspace(0, 360, 25))
    return lathe(np.stack([radius + thick * np.cos(a), z + thick * np.sin(a)], 1))


def _flat(arch: np.ndarray) -> np.ndarray:
    """A path in the x-z plane, laid down into the x-y plane."""
    return arch[:, [0, 2, 1]]


def _settled(parts: list[Part]) -> list[Part]:
    """The parts moved to stand on z = 0, with the middle of the footprint at the origin."""
    points = np.concatenate([part.mesh.vertices for part in parts])
    low, high = points.min(0), points.max(0)
    shift = [-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2]]
    return [Part(part.name, part.mesh.moved(*shift), part.surface) for part in parts]


def _shade(surface: Surface, *factors: float) -> Surface:
    """The same surface and colour name, lighter or darker in each channel."""
    texture = surface.texture
    return replace(
        surface,
        rgb=np.clip(surface.rgb * factors, 0, 0.97),
        texture=None if texture is None else np.clip(texture * factors, 0, 1),
    )


def frying_pan(look: Look) -> list[Part]:
    radius, deep, reach = look.between(0.68, 0.8), look.between(0.22, 0.32), look.between(0.8, 0.95)
    outer = spline([(radius * 0.72, 0), (radius * 0.85, 0.04), (radius, deep)])
    strips = vessel(outer, 0.05)
    grip = spline([(0, 0, 0), (0.4 * reach, 0, 0.14), (0.8 * reach, 0, 0.22), (reach, 0, 0.22)], 6)
    handle = tube(grip, np.linspace(0.08, 0.125, len(grip))).scaled(1, 1, 0.7)
    joint = box(0.22, 0.2, 0.09, 0.03).turned("y", -18)
    metal = look.paint(material="metal")
    dark = look.other("black", "grey", "black")
    parts = [
        Part("body", lathe(*strips[:3]), metal),
        Part("coating", lathe(*strips[3:]), look.paint(dark, "stone")),
        Part("joint", joint.moved(radius + 0.02, 0, deep - 0.1), look.paint("grey", "metal")),
        Part(
            "handle",
            handle.moved(radius + 0.12, 0, deep - 0.01),
            look.paint(look.other("black", "brown", "red"), "plastic"),
        ),
    ]
    return _settled(parts)


def cooking_pot(look: Look) -> list[Part]:
    radius, height = look.between(0.62, 0.74), look.between(0.6, 0.85)
    outer = spline([(radius - 0.06, 0), (radius, 0.07), (radius, height)])
    lid = lathe(
        [(0, height), (radius + 0.05, height)],
        [(radius + 0.05, height), (radius + 0.05, height + 0.05)],
        spline(
            [(radius + 0.05, height + 0.05), (radius * 0.6, height + 0.18), (0, height + 0.24)], 6
        ),
    )
    knob = lathe([(0.05, 0), (0.05, 0.12)], spline([(0.05, 0.1), (0.16, 0.15), (0, 0.25)]))
    loop = tube(_flat(arc(0.24, -90, 90)), 0.075).moved(radius - 0.03, 0, height * 0.74)
    material = str(look.rng.choice(["metal", "ceramic"]))
    coat = look.paint(material=material)
    trim = look.paint(look.other("black", "brown", "red", "yellow"), "plastic")
    return [
        Part("body", lathe(*vessel(outer, 0.05)), coat),
        Part("lid", lid, look.paint(look.other("grey", "white", "black"), material)),
        Part("knob", knob.moved(0, 0, height + 0.22), trim),
        Part("handle", merged(loop, loop.turned("z", 180)), trim),
    ]


def kettle(look: Look) -> list[Part]:
    wide, high = look.between(0.68, 0.8), look.between(0.75, 0.9)
    profile = [(0.86, 0), (1.0, 0.08), (0.95, 0.42), (0.66, 0.82), (0.44, 0.98)] * np.array(
        [wide, high]
    )
    body = lathe([(0, 0), (0.86 * wide, 0)], spline(profile, 7))
    cover = [(0.46, 0.96), (0.4, 1.06), (0.2, 1.13), (0, 1.15)] * np.array([wide, high])
    lid = merged(lathe(spline(cover, 6)), ellipsoid(0.1).moved(0, 0, 1.15 * high + 0.07))
    nose = spline([(-0.7 * wide, 0, 0.4), (-wide - 0.1, 0, 0.62), (-wide - 0.28, 0, 0.9)], 6)
    spout = tube(nose, np.linspace(0.22, 0.1, len(nose)))
    whistle = ellipsoid(0.15, 0.15, 0.13).moved(-wide - 0.31, 0, 0.97)
    arch = arc(1.0, 8, 172, 26) * [0.74 * wide, 1, 0.78] + [0, 0, 0.72 * high]
    dark = look.paint(look.other("black", "brown", "red"), "plastic")
    return _settled(
        [
            Part("body", body, look.paint(material="metal")),
            Part("lid", lid, look.paint(look.other("grey", "white", "yellow"), "metal")),
            Part("spout", spout, look.paint("grey", "metal")),
            Part("whistle", whistle, dark),
            Part("handle", tube(arch, 0.085), dark),
        ]
    )


def _slice_outline(wide: float, high: float) -> np.ndarray:
    """A slice of tin bread, standing: [S, 2]."""
    corners = [(-0.42, 0), (0.42, 0), (0.42, 0.5), (0.5, 0.72), (0.38, 0.95), (0, 1.0)]
    corners += [(-0.38, 0.95), (-0.5, 0.72), (-0.42, 0.5)]
    return spline(corners, 5, closed=True) * [wide, high]


def _toast(look: Look) -> Surface:
    """The face of a slice of bread, pale with a brown edge."""
    crumb = look.paint("yellow", "baked", speck=0.2)
    v, u = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 96), indexing="ij")
    edge = np.maximum(np.abs(u), np.abs(v)) > 0.86
    texture = crumb.texture if crumb.texture is not None else np.ones((96, 96, 3))
    shade = (
        texture
        / texture.mean((0, 1))
        * np.where(edge[..., None], (0.5, 0.28, 0.12), (0.9, 0.72, 0.44))
    )
    return replace(crumb, rgb=shade.mean((0, 1)), texture=np.clip(shade, 0, 1))


def toaster(look: Look) -> list[Part]:
    wide, deep, high = look.between(1.4, 1.6), look.between(0.8, 0.95), look.between(0.9, 1.05)
    lift = look.between(0.3, 0.42)
    toast = extrude(_slice_outline(wide * 0.68, 0.9), 0.14).turned("x", 90)
    slots, slices = [], []
    for y in (-0.19, 0.19):
        slots.append(box(wide * 0.78, 0.22, 0.03, 0.01).moved(0, y, high + 0.085))
        slices.append(toast.moved(0, y + 0.07, high - 0.8 + lift))
    lever = merged(
        box(0.03, 0.07, high * 0.6, 0.01).moved(wide / 2, 0, high * 0.28),
        box(0.2, 0.32, 0.12, 0.05).moved(wide / 2 + 0.1, 0, high * 0.7),
    )
    knob = lathe([(0.15, -0.05), (0.15, 0.09)], [(0.15, 0.09), (0, 0.09)]).turned("x", 90)
    material = str(look.rng.choice(["metal", "plastic"]))
    dark = look.paint(look.other("black", "grey"), "plastic")
    return [
        Part("body", box(wide, deep, high, 0.24).moved(0, 0, 0.1), look.paint(material=material)),
        Part("base", box(wide - 0.1, deep - 0.1, 0.3, 0.04), dark),
        Part("slots", merged(*slots), look.paint("black", "metal")),
        Part("slices", merged(*slices), _toast(look)),
        Part("lever", lever, dark),
        Part("knob", knob.moved(wide * 0.3, -deep / 2, high * 0.32), dark),
    ]


def bread(look: Look) -> list[Part]:
    wide, high, long = look.between(0.85, 1.0), look.between(0.75, 0.9), look.between(1.2, 1.45)
    outline = _slice_outline(wide, high)
    upright = lambda mesh: mesh.turned("x", 90).turned("z", 90)  # noqa: E731
    size = np.array([0.75, 0.9, 0.98, 1, 1, 1, 1])
    place = np.array([0, 0.06, 0.16, 0.3, long * 0.5, long * 0.8, long])
    rings = np.zeros((len(size), len(outline), 3))
    rings[..., :2] = outline * size[:, None, None]
    rings[..., 2] = place[:, None]
    loaf = upright(_loft(rings))
    crumb = upright(extrude(outline * 0.91 + [0, 0.03], 0.03)).moved(long, 0, 0)
    cuts = []
    for k in range(3):
        cut = ellipsoid(0.07, 0.36 * wide, 0.045).turned("z", 28)
        cuts.append(cut.moved(long * (0.25 + 0.25 * k), 0, high * 0.99))
    lean = lambda mesh: upright(mesh).turned("y", -22).moved(long + 0.32, 0, 0)  # noqa: E731
    cover = lean(extrude(outline, 0.15))
    face = lean(extrude(outline * 0.91 + [0, 0.03], 0.19).moved(0, 0, -0.02))
    crust = _shade(look.paint("brown", "baked", speck=0.3), 1.45, 1.5, 1.35)
    pale = _shade(look.paint("white", "baked", speck=0.14), 1, 0.92, 0.74)
    return _settled(
        [
            Part("crust", merged(loaf, cover), crust),
            Part("crumb", crumb, pale),
            Part("cuts", merged(*cuts), pale),
            Part("slices", face, pale),
        ]
    )


def cheese(look: Look) -> list[Part]:
    radius, high, half = look.between(1.4, 1.6), look.between(0.62, 0.8), look.between(26, 31)
    spots = look.rng.uniform(-1, 1, (24, 3))
    holes = []
    for side in (-1, 0, 1):  # the two cut faces and the top
        for k, along in enumerate((0.35, 0.52, 0.66, 0.8, 0.9)):
            a, b, c = spots[5 * (side + 1) + k]
            size = 0.115 + 0.045 * a
            hole = ellipsoid(size, size, 0.015, 20)
            r = radius * along
            if side:
                z = high * (0.5 + (0.24 if k % 2 else -0.24) + 0.05 * b)
                hole = hole.turned("x", -90 * side).moved(r, 0, z).turned("z", side * half)
            else:
                turn = half * (0.5 if k % 2 else -0.5) * (1 + 0.2 * c)
                hole = hole.moved(r, 0, high).turned("z", turn)
            holes.append(hole)
    inside = {"yellow": "orange", "orange": "brown"}.get(look.color, "yellow")
    wax = look.other("red", "orange", "brown", "black", "green")
    return _settled(
        [
            Part("body", _sector(radius, -half, half, 0, high), look.paint(material="wax")),
            Part(
                "rind",
                _sector(radius + 0.1, -half + 0.3, half - 0.3, 0.01, high - 0.01),
                look.paint(wax, "wax"),
            ),
            Part("holes", merged(*holes), _shade(look.paint(inside, "wax"), 0.8, 0.75, 0.7)),
        ]
    )


def cake(look: Look) -> list[Part]:
    radius, high, mouth = look.between(0.8, 0.95), look.between(0.6, 0.8), look.between(24, 32)
    layers, fillings = [], []
    slab = radius - 0.1
    for side in (-1, 1):
        for k in range(3):
            sponge = box(slab, 0.04, high * 0.22, 0.01).moved(slab / 2 + 0.02, 0, high * 0.3 * k)
            layers.append(sponge.moved(0, 0, 0.03).turned("z", side * mouth - 90))
            if k < 2:
                cream = box(slab, 0.05, high * 0.1, 0.01).moved(slab / 2 + 0.02, 0, high * 0.3 * k)
                fillings.append(
                    cream.moved(0, 0, 0.03 + high * 0.21).turned("z", side * mouth - 90)
                )
    dollop = lathe(spline([(0.15, 0), (0.17, 0.06), (0.1, 0.15), (0, 0.19)], 5))
    bead = ellipsoid(0.1, 0.1, 0.1, 16)
    creams, cherries = [], []
    for angle in np.linspace(mouth + 12, 348 - mouth, 7):
        at = np.radians(angle - 90)
        x, y = np.cos(at), np.sin(at)
        creams.append(dollop.moved(x * (radius - 0.2), y * (radius - 0.2), high))
        cherries.append(
            ellipsoid(0.12, segments=20).moved(x * (radius - 0.2), y * (radius - 0.2), high + 0.24)
        )
    for angle in np.linspace(mouth + 4, 356 - mouth, 24):
        at = np.radians(angle - 90)
        creams.append(bead.moved(np.cos(at) * radius, np.sin(at) * radius, 0.08))
    white = "white" if look.color != "white" else "pink"
    sponge_color = _shade(look.paint("brown", "baked", speck=0.3), 1.5, 1.55, 1.5)
    return [
        Part(
            "icing",
            _sector(radius, mouth, 360 - mouth, 0, high).turned("z", -90),
            look.paint(material="wax"),
        ),
        Part("sponge", merged(*layers), sponge_color),
        Part("filling", merged(*fillings), look.paint(look.other("white", "red", "pink"), "wax")),
        Part("cream", merged(*creams), look.paint(white, "wax")),
        Part("cherry", merged(*cherries), look.paint("red", "skin")),
    ]


def strawberry(look: Look) -> list[Part]:
    wide, high, lean = look.between(0.52, 0.62), look.between(1.1, 1.35), look.between(-14, 14)
    profile = spline(
        np.array([(0, 0), (0.3, 0.04), (0.62, 0.3), (1, 0.72), (0.94, 0.9), (0.5, 1), (0, 0.98)])
        * [wide, high],
        8,
    )
    rising = profile[: int(0.72 * len(profile))]
    leaves = []
    for k in range(7):
        path = spline([(0.05, 0, 0.04), (0.3, 0, 0.12), (0.58, 0, 0.0), (0.74, 0, -0.16)], 5)
        blade = tube(path, np.interp(np.linspace(0, 1, len(path)), [0, 0.4, 1], [0.1, 0.16, 0.01]))
        leaves.append(blade.scaled(1, 1, 0.6).turned("z", 360 * k / 7).moved(0, 0, high * 0.97))
    stem = tube(spline([(0, 0, high), (0.03, 0, high + 0.16), (0.12, 0, high + 0.3)]), 0.06)
    parts = [
        Part("body", lathe(profile), look.paint(material="skin")),
        Part(
            "seeds",
            _studs(rising, 64, (0.032, 0.05, 0.02), None),
            look.paint("yellow", "skin"),
        ),
        Part("leaf", merged(*leaves), look.paint("green", "leaf")),
        Part("stem", stem, look.paint("green", "leaf")),
    ]
    return _settled([Part(p.name, p.mesh.turned("x", lean), p.surface) for p in parts])


def carrot(look: Look) -> list[Part]:
    long, thick, bend = look.between(1.25, 1.45), look.between(0.28, 0.34), look.between(-0.1, 0.1)
    tufts = look.rng.uniform(-1, 1, (9, 3))
    path = spline([(0, 0, 0), (0.4 * long, bend, 0), (0.75 * long, 0, 0), (long, -bend, 0)], 10)
    share = np.linspace(0, 1, len(path))
    radius = thick * np.interp(share, [0, 0.06, 0.5, 0.85, 1], [0.82, 1, 0.74, 0.4, 0.24])
    radius *= 1 + 0.05 * np.sign(np.sin(share * 40))
    last = path[-1]
    root = last + np.array([(0, 0, 0), (0.12, -0.02, 0), (0.26, 0.02, -0.02)])
    tip = tube(root, [0.055, 0.035, 0.015])
    top = lathe(spline([(thick * 0.7, 0), (thick * 0.45, 0.08), (0, 0.1)])).turned("y", -90)
    leaves = []
    for k, (a, b, c) in enumerate(tufts):
        angle = 2 * np.pi * k / 9
        y, z = 0.3 * np.cos(angle) + 0.08 * a, 0.26 * np.sin(angle) + 0.14 + 0.06 * b
        reach = 0.55 + 0.12 * c
        stalk = spline([(0, 0, 0), (-0.4 * reach, 0.5 * y, 0.5 * z), (-reach, y, z)], 5)
        leaves.append(tube(stalk, np.linspace(0.045, 0.03, len(stalk)), 8))
        for share_, side in ((0.55, 1), (0.55, -1), (0.8, 1), (0.8, -1), (1.0, 0)):
            at = np.array([-reach, y, z]) * share_
            leaf = ellipsoid(0.14, 0.07, 0.05, 12).turned("z", 40 * side)
            leaves.append(leaf.moved(at[0], at[1] + 0.06 * side, at[2]))
    return _settled(
        [
            Part("body", tube(path, radius, 20), look.paint(material="skin", speck=0.12)),
            Part("tip", tip, _shade(look.paint(material="skin"), 0.8, 0.8, 0.8)),
            Part("stem", top.moved(-thick * 0.7, 0, 0), look.paint("brown", "wood")),
            Part("leaf", merged(*leaves).moved(-thick * 0.7, 0, 0), look.paint("green", "leaf")),
        ]
    )


def mushroom(look: Look) -> list[Part]:
    wide, high, dome = look.between(0.72, 0.86), look.between(0.65, 0.85), look.between(0.5, 0.68)
    shake = look.rng.uniform(-1, 1, (16, 2)) * [0.02, 0.25]
    stalk = lathe(
        [(0, 0), (0.3, 0)],
        spline([(0.3, 0), (0.36, 0.12), (0.24, high * 0.55), (0.22, high + 0.1)], 6),
    )
    a = np.radians(np.linspace(0, 90, 16))
    cap = np.stack([wide * np.cos(a), high + dome * np.sin(a)], 1)
    cap = np.concatenate([[(wide * 0.93, high - 0.08), (wide, high - 0.05)], cap])
    under = [(0.2, high + 0.02), (wide * 0.6, high - 0.04), (wide * 0.93, high - 0.08)]
    gills = lathe(spline(under))
    frill = np.array([(0.42, high * 0.5), (0.25, high * 0.68)])
    skirt = lathe(frill, frill[::-1] - [0.01, 0.015])
    pale = look.paint("white" if look.color != "white" else "brown", "skin")
    return [
        Part("stem", merged(stalk, skirt), _shade(look.paint("white", "skin"), 1, 0.96, 0.86)),
        Part("gills", gills, look.paint(look.other("brown", "pink", "brown"), "skin")),
        Part("cap", lathe(cap), look.paint(material="skin")),
        Part("dots", _studs(cap, 16, (0.11, 0.11, 0.04), shake), pale),
    ]


def pineapple(look: Look) -> list[Part]:
    wide, high = look.between(0.5, 0.58), look.between(1.1, 1.3)
    profile = spline(
        np.array([(0, 0), (0.7, 0.02), (0.98, 0.3), (1, 0.6), (0.75, 0.92), (0.3, 1), (0, 1)])
        * [wide, high],
        6,
    )
    leaves = []
    for count, tilt, length in ((8, 58, 0.55), (7, 34, 0.72), (6, 12, 0.85)):
        for k in range(count):
            path = spline([(0, 0, 0), (0.03, 0, 0.45 * length), (0.16, 0, length)], 5)
            thick = np.interp(np.linspace(0, 1, len(path)), [0, 0.35, 1], [0.1, 0.11, 0.01])
            leaf = tube(path, thick, 8).turned("y", tilt).moved(0.08, 0, high - 0.06)
            leaves.append(leaf.turned("z", 360 * k / count + tilt))
    scales = _studs(profile, 72, (0.095, 0.095, 0.07), None)
    return _settled(
        [
            Part("body", lathe(profile), _shade(look.paint("brown", "skin"), 1.1, 1, 0.8)),
            Part("scales", scales, look.paint(material="skin")),
            Part("leaf", merged(*leaves), look.paint("green", "leaf")),
        ]
    )


def pumpkin(look: Look) -> list[Part]:
    wide, high, lobes = look.between(0.7, 0.85), look.between(0.45, 0.6), int(look.between(8, 11))
    lobe = ellipsoid(wide * 0.52, wide * 2.9 / lobes, high).moved(wide * 0.5, 0, high)
    body = merged(*(lobe.turned("z", 360 * k / lobes) for k in range(lobes)))
    top = 2 * high
    stem_path = spline(
        [(0, 0, top - 0.15), (0, 0, top + 0.1), (0.08, 0, top + 0.24), (0.24, 0.02, top + 0.3)]
    )
    stem = tube(stem_path, np.linspace(0.16, 0.1, len(stem_path)), 8)
    vine = spline([(0, -0.1, top - 0.12), (-0.2, -0.3, top + 0.02), (-0.36, -0.45, top - 0.04)])
    a = np.linspace(0, 2 * np.pi, 41)[:-1]
    lobed = 0.32 * (1 + 0.22 * np.cos(5 * a)) * (1 - 0.1 * np.cos(a))
    leaf = extrude(np.stack([lobed * np.cos(a), lobed * np.sin(a)], 1), 0.05)
    leaf = leaf.turned("x", 22).moved(-0.38, -0.45, top - 0.06)
    return [
        Part("body", body, look.paint(material="skin")),
        Part("stem", stem, _shade(look.paint("green", "wood"), 1.1, 0.9, 0.7)),
        Part("leaf", merged(leaf, tube(vine, 0.035, 8)), look.paint("green", "leaf")),
    ]


def umbrella(look: Look) -> list[Part]:
    radius, deep, reach = look.between(0.95, 1.1), look.between(0.45, 0.6), look.between(0.75, 0.9)
    local = np.linspace(-np.pi / 8, np.pi / 8, 9)
    pull = 1 - np.cos(np.pi / 8) / np.cos(local)  # how far the cloth sags between two ribs

    def cloth(first: float, last: float) -> Mesh:
        t = np.linspace(last, first, 12)[:, None]  # the rim is t = 1
        out = radius * np.sin(1.2 * t) / np.sin(1.2) * (1 - 1.6 * t * pull)
        up = deep * (np.cos(1.2 * t) - np.cos(1.2)) / (1 - np.cos(1.2)) + 0 * out
        panels = []
        for k in range(8):
            a = local + k * np.pi / 4
            top = np.stack([out * np.cos(a), out * np.sin(a), up], -1)
            panels += [_sheet(top), _sheet(top[:, ::-1] - [0, 0, 0.025])]
        return merged(*panels)

    spokes = []
    for k in range(8):
        a = k * np.pi / 4 + np.pi / 8
        x, y = np.cos(a), np.sin(a)
        end = (radius * 0.62 * x, radius * 0.62 * y, deep * 0.62)
        spokes.append(_rod((0.03 * x, 0.03 * y, -0.02), end, 0.022))
        spokes.append(ellipsoid(0.04, segments=12).moved(radius * x, radius * y, 0))
    hook = arc(0.17, 180, 350, 14) * [1, 1, 1.2] + [0.17, 0, -reach]
    grip = np.concatenate([[(0, 0, -reach + 0.3)], hook])[:, [1, 0, 2]]
    tip = lathe([(0.07, deep - 0.03), (0.05, deep + 0.12)], [(0.05, deep + 0.12), (0, deep + 0.24)])
    metal = look.paint("grey", "metal")
    trim = look.other("white", "yellow", "blue", "red", "black", "pink")
    parts = [
        Part("canopy", cloth(0.02, 0.84), look.paint(material="cloth")),
        Part("rim", cloth(0.84, 1), look.paint(trim, "cloth")),
        Part("shaft", _rod((0, 0, deep - 0.05), (0, 0, -reach + 0.3), 0.04), metal),
        Part("spokes", merged(*spokes), metal),
        Part("handle", tube(grip, 0.085), look.paint(look.other("brown", "black"), "wood")),
        Part("tip", tip, look.paint(look.other("brown", "black", "grey"), "wood")),
    ]
    tilt = -np.degrees(np.arctan2(reach + 0.25, radius))
    return _settled([Part(p.name, p.mesh.turned("x", tilt), p.surface) for p in parts])


def hat(look: Look) -> list[Part]:
    brim, high, curl = look.between(0.95, 1.15), look.between(0.5, 0.7), look.between(0.08, 0.2)
    edge = 0.04 + curl
    under = spline([(0.5, 0), (0.7, 0), (brim, curl)], 6)
    over = spline([(brim, edge + 0.01), (0.7, 0.06), (0.5, 0.06)], 6)
    oval = lambda mesh: mesh.scaled(0.92, 1.08, 1)  # noqa: E731
    crown = [(0.56, 0.05), (0.54, high * 0.5), (0.48, high * 0.9), (0.38, high)]
    crown += [(0.2, high - 0.06), (0, high - 0.12)]
    band = lathe([(0.585, 0.06), (0.57, 0.27)], [(0.57, 0.27), (0.5, 0.28)])
    quill = spline([(0.56, 0.0, 0.12), (0.62, 0.1, 0.45), (0.56, 0.32, 0.95)], 6)
    breadth = np.interp(np.linspace(0, 1, len(quill)), [0, 0.2, 0.6, 1], [0.03, 0.11, 0.15, 0.03])
    feather = tube(quill, breadth)
    feather = feather.moved(-0.6, 0, 0).scaled(0.45, 1, 1).moved(0.58, -0.1, 0)
    felt = look.paint(material="cloth")
    return [
        Part("crown", oval(lathe(spline(crown, 6))), felt),
        Part("brim", oval(lathe([(0, 0), (0.5, 0)], under, [under[-1], over[0]], over)), felt),
        Part("band", oval(band), look.paint(look.other("black", "red", "white", "brown"), "cloth")),
        Part(
            "feather", feather, look.paint(look.other("white", "red", "green", "yellow"), "plush")
        ),
    ]


def shoe(look: Look) -> list[Part]:
    long, wide, high = look.between(1.0, 1.12), look.between(0.36, 0.42), look.between(0.92, 1.1)
    a = np.linspace(0, 2 * np.pi, 49)[:-1]

    def ring(z: float, toe: float, heel: float, half: float) -> np.ndarray:
        """The outline of a foot at height z: round at the toe, narrower at the heel."""
        y = np.sin(a)
        y = np.sign(y) * np.abs(y) ** 0.85
        width = half * (0.94 - 0.1 * y - 0.16 * y**2 * (y > 0))
        x = width * np.sign(np.cos(a)) * np.abs(np.cos(a)) ** 0.8
        return np.stack([x, (toe + heel) / 2 + y * (heel - toe) / 2, np.full_like(a, z)], 1)

    def stack(rows: list[tuple[float, float, float, float]]) -> Mesh:
        smooth = spline(np.array(rows), 4)
        return _loft(np.stack([ring(z, t, h, w) for z, t, h, w in smooth]))

    sole = stack(
        [
            (0, -long, long, wide * 1.02),
            (0.04, -long - 0.03, long + 0.03, wide * 1.12),
            (0.2, -long - 0.03, long + 0.03, wide * 1.12),
            (0.22, -long, long, wide * 1.02),
        ]
    )
    slope = [  # height, toe, half width of the upper
        (0.2, -long + 0.01, wide * 1.03),
        (0.36, -long + 0.03, wide * 1.03),
        (0.48, -long + 0.15, wide),
        (0.56, -long + 0.42, wide * 0.96),
        (0.68, -0.22, wide * 0.9),
        (0.84, 0.02, wide * 0.84),
        (high, 0.14, wide * 0.82),
    ]
    upper = stack([(z, toe, long - 0.06 * (z > 0.5), half) for z, toe, half in slope])
    lining = stack(
        [
            (high - 0.1, 0.22, long - 0.14, wide * 0.62),
            (high + 0.012, 0.22, long - 0.14, wide * 0.66),
        ]
    )
    cap = ellipsoid(wide * 0.93, 0.36, 0.27).moved(0, -long + 0.34, 0.3)
    heights, toes, halves = np.array(slope).T
    laces = []
    rows = np.linspace(0.56, high - 0.1, 5)
    for z in rows:
        y, half = np.interp(z, heights, toes), 0.55 * np.interp(z, heights, halves)
        bow = spline([(-half, y + 0.13, z), (0, y - 0.03, z + 0.06), (half, y + 0.13, z)], 5)
        laces.append(tube(bow, 0.045, 8))
    for side in (-1, 1):
        loop = arc(0.15, 0, 360, 20) * [1.2, 1, 0.6]
        loop = tube(loop, 0.035, 8).turned("z", 25 * side).turned("x", 30)
        laces.append(loop.moved(0.2 * side, toes[-1] - 0.14, high - 0.02))
    tongue = box(wide * 1.0, 0.12, 0.75, 0.05).turned("x", -28).moved(0, -0.2, high - 0.45)
    coat = look.paint(material=str(look.rng.choice(["leather", "cloth"])))
    light = look.paint("white" if look.color != "white" else "grey", "rubber")
    return [
        Part("sole", sole, light),
        Part("upper", upper, coat),
        Part("toe cap", cap, light),
        Part("lining", lining, look.paint("black" if look.color != "black" else "grey", "cloth")),
        Part("tongue", tongue, look.paint(look.other("grey", "blue", "red", "yellow"), "cloth")),
        Part("laces", merged(*laces), look.paint(look.other("white", "yellow", "black"), "cloth")),
    ]


def handbag(look: Look) -> list[Part]:
    wide, deep, high = look.between(1.4, 1.65), look.between(0.5, 0.62), look.between(0.9, 1.1)
    body = box(wide, deep, high, 0.14)
    narrow = 1 - 0.24 * body.vertices[:, 2:] / high  # a bag is narrower at the top
    body = replace(body, vertices=body.vertices * np.concatenate([narrow, narrow, narrow**0], 1))
    top = 0.78 * wide
    outline = spline(
        np.array([(-0.5, 0), (0, 0), (0.5, 0), (0.48, -0.3), (0, -0.6), (-0.48, -0.3)])
        * [top, high],
        6,
        closed=True,
    )
    front = extrude(outline, 0.06).turned("x", 90 + 4).moved(0, -deep * 0.38 - 0.01, high * 0.99)
    flap = merged(front, box(top, deep * 0.82, 0.1, 0.04).moved(0, 0, high - 0.05))
    arch = arc(1.0, 4, 176, 26) * [0.36 * wide, 1, 0.7] + [0, 0, high]
    rings = [ellipsoid(0.11, 0.1, 0.11, 18).moved(x * 0.36 * wide, 0, high + 0.05) for x in (-1, 1)]
    clasp = box(0.26, 0.1, 0.22, 0.04).moved(0, -deep / 2 - 0.03, high * 0.38)
    trim = look.paint(look.other("brown", "black", "white", "red"), "leather")
    gold = look.paint(look.other("yellow", "grey"), "metal")
    return [
        Part("body", body, look.paint(material="leather")),
        Part("flap", flap, trim),
        Part("handle", tube(arch, 0.07), trim),
        Part("clasp", merged(clasp, *rings), gold),
    ]


def basket(look: Look) -> list[Part]:
    wide, high, rows = look.between(0.75, 0.9), look.between(0.65, 0.8), 7
    coils, stakes = [], []
    thick = high / rows / 2 + 0.012
    for k in range(rows):
        z = high * (k + 0.5) / rows
        coils.append(_ring(wide * (0.76 + 0.22 * z / high), thick, z))
    for k in range(18):
        post = tube(np.array([(wide * 0.82, 0, 0.05), (wide * 1.03, 0, high - 0.03)]), 0.05, 8)
        stakes.append(post.turned("z", 20 * k))
    floor = lathe([(0, 0.0), (wide * 0.78, 0.0)], [(wide * 0.78, 0.05), (0, 0.05)])
    arch = arc(1.0, 0, 180, 30) * [wide * 0.98, 1, 0.95] + [0, 0, high]
    a = np.linspace(0, 2 * np.pi, 97)
    hang = 0.07 + 0.1 * np.abs(np.sin(4 * a))  # corners of the cloth over the rim
    fold = np.stack(
        [
            np.stack([r * np.cos(a), r * np.sin(a), z + 0 * a], 1)
            for r, z in (
                (wide * 1.1, high - hang),
                (wide * 1.1, high + 0.02),
                (wide * 1.0, high + 0.09),
                (wide * 0.86, high + 0.02),
                (wide * 0.66, high - 0.2),
                (0.01, high - 0.24),
            )
        ]
    )
    cloth = _sheet(fold)
    wicker = look.paint(material="wood", speck=0.3)
    return [
        Part("body", merged(floor, *coils), wicker),
        Part("stakes", merged(*stakes), _shade(wicker, 0.62, 0.6, 0.58)),
        Part("napkin", cloth, look.paint(look.other("white", "red", "blue"), "cloth")),
        Part("handle", tube(arch, 0.085), wicker),
    ]


def watering_can(look: Look) -> list[Part]:
    wide, high = look.between(0.5, 0.6), look.between(0.8, 0.95)
    outer = spline([(wide, 0), (wide * 1.0, 0.1), (wide * 0.9, high)])
    bands = merged(_ring(wide, 0.05, 0.06), _ring(wide * 0.9 - 0.01, 0.055, high))
    low, top = np.array([-wide * 0.8, 0, 0.2]), np.array([-wide - 0.6, 0, high + 0.12])
    spout = tube(np.linspace(low, top, 8), np.linspace(0.15, 0.08, 8))
    brace = _rod((-wide * 0.85, 0, high * 0.92), tuple(low + 0.62 * (top - low)), 0.035)
    rose = lathe(
        [(0.07, -0.12), (0.29, 0.12)],
        spline([(0.29, 0.12), (0.22, 0.17), (0, 0.2)]),
    )
    rose = rose.turned("y", -70).moved(top[0] - 0.08, 0, top[2] + 0.06)
    cover = extrude(arc(wide * 0.9, 90, 270)[:, [0, 2]], 0.04).moved(0, 0, high - 0.02)
    back = spline(
        [
            (0.2 * wide, 0, high),
            (0.5 * wide, 0, high + 0.36),
            (wide + 0.25, 0, high + 0.2),
            (wide + 0.32, 0, high * 0.6),
            (wide * 0.95, 0, 0.24),
        ],
        7,
    )
    material = str(look.rng.choice(["metal", "plastic"]))
    coat = look.paint(material=material)
    trim = look.paint(look.other("grey", "white", "yellow", "red"), material)
    return _settled(
        [
            Part("body", merged(lathe(*vessel(outer, 0.04)), cover), coat),
            Part("hoops", bands, trim),
            Part("spout", merged(spout, brace), coat),
            Part("sprinkler", rose, trim),
            Part("handle", tube(back, 0.075), look.paint(look.other("black", "green"), material)),
        ]
    )


def cactus(look: Look) -> list[Part]:
    high, thick = look.between(1.0, 1.25), look.between(0.26, 0.32)
    left, right = look.between(0.3, 0.45), look.between(0.5, 0.65)
    pot = spline([(0.36, 0), (0.44, 0.3), (0.48, 0.5)], 5)
    a = np.linspace(0, 2 * np.pi, 97)[:-1]

    def column(path: np.ndarray, radius: float) -> Mesh:
        """A ribbed stem along a path in the x-z plane, with a round top."""
        tangent = np.gradient(path, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        end, along = path[-1], tangent[-1]
        bend = np.radians(np.linspace(15, 88, 7))
        path = np.concatenate([path, end + along * (radius * np.sin(bend))[:, None]])
        tangent = np.concatenate([tangent, np.repeat(along[None], 7, 0)])
        size = np.concatenate([np.full(len(path) - 7, radius), radius * np.cos(bend)])
        side = np.cross([0.0, 1, 0], tangent)
        spread = size[:, None] * (1 + 0.13 * np.cos(9 * a))
        rings = path[:, None] + spread[..., None] * (
            np.cos(a)[:, None] * side[:, None] + np.sin(a)[:, None] * np.array([0.0, 1, 0])
        )
        return _loft(rings)

    trunk = column(np.linspace([0, 0, 0.4], [0, 0, 0.4 + high], 12), thick)
    limbs, blooms = [], []
    for side, share in ((-1, left), (1, right)):
        z, out = 0.4 + high * share, side * (thick + 0.34)
        limb = [(0.1 * side, 0, z), (0.8 * out, 0, z + 0.02), (out, 0, z + 0.2), (out, 0, z + 0.45)]
        limbs.append(column(spline(limb, 6), thick * 0.56))
    for k in range(8):
        petal = ellipsoid(0.15, 0.07, 0.04, 14).turned("y", -35).moved(0.12, 0, 0.06)
        blooms.append(petal.turned("z", 45 * k).moved(0, 0, 0.4 + high + thick))
    dome = 0.4 + high
    wall = spline([(thick * 1.1, 0.55), (thick * 1.1, dome), (thick * 0.75, dome + thick * 0.8)], 8)
    needles = _studs(wall, 60, (0.024, 0.024, 0.08), None)
    petals = look.paint(look.other("pink", "red", "yellow"), "leaf")
    green = look.paint("green", "leaf")
    return [
        Part("pot", lathe(*vessel(pot, 0.06)), look.paint(material="ceramic")),
        Part("soil", disk(0.44, 0.43), look.paint("brown", "baked", speck=0.6)),
        Part("trunk", trunk, green),
        Part("arms", merged(*limbs), green),
        Part("spines", needles, look.paint("white", "wood")),
        Part("flowers", merged(*blooms), petals),
    ]


def chair(look: Look) -> list[Part]:
    wide, seat, back = look.between(0.95, 1.1), look.between(0.8, 0.95), look.between(0.95, 1.15)
    half = wide / 2 - 0.09
    legs = [
        _rod((x * half * 1.08, y * half * 1.08, 0.07), (x * half, y * half, seat), 0.07)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    rails, rest = [], []
    for x in (-half, half):
        rails.append(_rod((x, -half, seat * 0.4), (x, half, seat * 0.4), 0.045))
        rest.append(_rod((x, half, seat), (x, half + 0.16, seat + back), 0.07))
    for share, tall in ((0.32, 0.16), (0.58, 0.16), (0.82, 0.26)):
        slat = box(wide - 0.16, 0.08, tall, 0.03).turned("x", -8)
        rest.append(slat.moved(0, half + 0.16 * share, seat + back * share))
    cushion = ellipsoid(wide * 0.44, wide * 0.43, 0.11).moved(0, -0.02, seat + 0.14)
    wood = look.paint(material="wood")
    return _settled(
        [
            Part("legs", merged(*legs, *rails), wood),
            Part("seat", box(wide, wide, 0.12, 0.05).moved(0, 0, seat), wood),
            Part("backrest", merged(*rest), wood),
            Part(
                "cushions",
                cushion,
                look.paint(look.other("red", "blue", "white", "green", "yellow"), "cloth"),
            ),
        ]
    )


def sofa(look: Look) -> list[Part]:
    wide, deep, back = look.between(1.9, 2.2), look.between(0.95, 1.1), look.between(0.95, 1.1)
    turn = look.between(-12, 12)
    seat = [
        box(wide / 2 - 0.24, deep - 0.2, 0.24, 0.1).moved(x * (wide / 4 - 0.11), -0.1, 0.42)
        for x in (-1, 1)
    ]
    frame = box(wide - 0.1, deep, 0.34, 0.05).moved(0, 0, 0.14)
    arms = [
        merged(
            box(0.24, deep, 0.5, 0.06).moved(x * (wide / 2 - 0.12), 0, 0.14),
            _rod(
                (x * (wide / 2 - 0.12), -deep / 2 + 0.1, 0.68),
                (x * (wide / 2 - 0.12), deep / 2 - 0.1, 0.68),
                0.17,
            ),
        )
        for x in (-1, 1)
    ]
    rest = box(wide - 0.2, 0.28, back - 0.2, 0.12).turned("x", -10).moved(0, deep / 2 - 0.16, 0.2)
    pillows = [
        box(0.52, 0.22, 0.48, 0.1)
        .turned("y", turn * x)
        .turned("x", -20)
        .moved(x * (wide / 2 - 0.5), 0.04, 0.64)
        for x in (-1, 1)
    ]
    foot = ellipsoid(0.1, 0.1, 0.12).moved(0, 0, 0.12)
    legs = [
        foot.moved(x * (wide / 2 - 0.18), y * (deep / 2 - 0.15), 0)
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    coat = look.paint(material=str(look.rng.choice(["cloth", "leather"])))
    return _settled(
        [
            Part("seat", merged(frame, *seat), coat),
            Part("armrests", merged(*arms), coat),
            Part("backrest", rest, coat),
            Part(
                "cushions",
                merged(*pillows),
                look.paint(look.other("yellow", "white", "red", "turquoise"), "cloth"),
            ),
            Part("legs", merged(*legs), look.paint(look.other("brown", "black"), "wood")),
        ]
    )


KINDS: dict[str, Kind] = {
    "frying pan": Kind(
        frying_pan, ANY, 1.3, names=("pan", "cooking pan"), unheard=("skillet", "griddle")
    ),
    "cooking pot": Kind(
        cooking_pot, ANY, 1.05, names=("soup pot", "stew pot"), unheard=("saucepan", "casserole")
    ),
    "kettle": Kind(kettle, ANY, 1.0, names=("tea kettle",), unheard=("water boiler",)),
    "toaster": Kind(toaster, ANY, 0.95, names=("bread toaster",), unheard=("toaster oven",)),
    "bread": Kind(
        bread, ("brown",), 1.0, names=("loaf of bread", "bread loaf"), unheard=("loaf", "sourdough")
    ),
    "cheese": Kind(
        cheese,
        ("yellow", "yellow", "orange", "white"),
        0.95,
        names=("piece of cheese", "swiss cheese"),
        unheard=("cheddar", "emmental"),
    ),
    "cake": Kind(
        cake,
        ("pink", "white", "brown", "blue", "purple", "turquoise", "yellow", "green"),
        1.0,
        names=("layer cake", "cream cake"),
        unheard=("birthday cake", "gateau"),
    ),
    "strawberry": Kind(
        strawberry, ("red",), 0.75, names=("strawberry fruit",), unheard=("berry", "strawberries")
    ),
    "carrot": Kind(
        carrot,
        ("orange", "orange", "purple", "yellow"),
        1.3,
        names=("carrot vegetable",),
        unheard=("carrots", "root vegetable"),
    ),
    "mushroom": Kind(
        mushroom,
        ("red", "red", "brown", "white", "orange"),
        0.85,
        names=("forest mushroom",),
        unheard=("toadstool", "fungus"),
    ),
    "pineapple": Kind(
        pineapple,
        ("yellow", "orange"),
        0.65,
        names=("pineapple fruit",),
        unheard=("ananas", "tropical fruit"),
    ),
    "pumpkin": Kind(
        pumpkin,
        ("orange", "orange", "white", "green"),
        0.95,
        names=("halloween pumpkin",),
        unheard=("squash", "gourd"),
    ),
    "umbrella": Kind(umbrella, ANY, 1.2, names=("open umbrella",), unheard=("parasol", "brolly")),
    "hat": Kind(hat, ANY, 1.15, names=("sun hat", "felt hat"), unheard=("fedora", "headwear")),
    "shoe": Kind(shoe, ANY, 1.1, names=("sneaker", "shoes"), unheard=("trainer", "footwear")),
    "handbag": Kind(
        handbag, ANY, 0.85, names=("purse", "leather bag"), unheard=("bag", "shoulder bag")
    ),
    "basket": Kind(
        basket,
        ("brown", "brown", "yellow", "white", "grey", "orange", "green"),
        1.0,
        names=("wicker basket",),
        unheard=("picnic basket", "hamper"),
    ),
    "watering can": Kind(
        watering_can, ANY, 1.2, names=("garden watering can",), unheard=("plant waterer",)
    ),
    "cactus": Kind(
        cactus, ANY, 0.85, names=("potted cactus",), unheard=("succulent", "desert plant")
    ),
    "chair": Kind(
        chair, ANY, 0.85, names=("wooden chair", "doll chair"), unheard=("stool", "furniture")
    ),
    "sofa": Kind(sofa, ANY, 1.2, names=("toy sofa", "settee"), unheard=("couch", "loveseat")),
}

# The parts of these kinds that no other module names; the first word is the part's own.
PART_WORDS: dict[str, tuple[str, ...]] = {
    "coating": ("coating", "cooking surface"),
    "joint": ("joint", "bracket"),
    "whistle": ("whistle",),
    "slots": ("slots", "slot"),
    "slices": ("slices", "bread slice", "slice of bread", "toast"),
    "lever": ("lever", "switch"),
    "crust": ("crust", "bread crust"),
    "crumb": ("crumb",),
    "cuts": ("cuts",),
    "rind": ("rind", "cheese rind"),
    "holes": ("holes", "hole"),
    "sponge": ("sponge", "cake layers", "sponge layers"),
    "filling": ("filling", "cream filling"),
    "seeds": ("seeds", "seed"),
    "gills": ("gills", "underside"),
    "dots": ("dots", "spots"),
    "scales": ("scales", "bumps"),
    "canopy": ("canopy",),
    "shaft": ("shaft", "rod"),
    "spokes": ("spokes", "ribs"),
    "crown": ("crown",),
    "brim": ("brim",),
    "band": ("band", "hatband"),
    "feather": ("feather", "plume"),
    "sole": ("sole", "rubber sole"),
    "upper": ("upper",),
    "toe cap": ("toe cap", "toe"),
    "lining": ("lining",),
    "tongue": ("tongue",),
    "laces": ("laces", "shoelaces", "shoe laces", "shoelace"),
    "flap": ("flap",),
    "clasp": ("clasp", "buckle"),
    "stakes": ("stakes", "uprights"),
    "napkin": ("napkin", "kitchen towel"),
    "sprinkler": ("sprinkler", "sprinkler head", "rose"),
    "spines": ("spines", "thorns", "needles"),
    "seat": ("seat",),
    "backrest": ("backrest", "back rest"),
    "cushions": ("cushions", "cushion", "pillows", "pillow"),
    "armrests": ("armrests", "armrest"),
}
