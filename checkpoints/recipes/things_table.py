"""Things of a tea table and a child's room: crockery, fruit, sweets, lamp, bear, duck, car ..."""

import numpy as np
from look import ANY, BRIGHT, Kind, Look, Part, Surface, stripes, vessel
from meshes import Mesh, arc, box, disk, ellipsoid, extrude, lathe, merged, rotation, spline, tube


def mug(look: Look) -> list[Part]:
    radius, height = look.between(0.4, 0.48), look.between(0.85, 1.1)
    wall = look.paint(material="ceramic")
    outer = spline(
        [(radius * 0.9, 0), (radius, 0.08), (radius, height * 0.6), (radius * 1.02, height)]
    )
    ring = arc(height * 0.28, -95, 95)
    handle = tube(ring * [1.0, 1, 1.1], 0.075).moved(radius * 0.97, 0, height * 0.52)
    drink = look.other("brown", "black", "brown")
    return [
        Part("body", lathe(*vessel(outer, 0.07)), wall),
        Part("handle", handle, wall),
        Part("coffee", disk(radius * 0.9, height * 0.84), look.paint(drink, "skin")),
    ]


def teapot(look: Look) -> list[Part]:
    size = look.between(0.9, 1.1)
    coat, knob = look.paint(material="ceramic"), look.paint(look.other("white", "black", "yellow"))
    profile = [(0.45, 0), (0.62, 0.12), (0.8, 0.5), (0.66, 0.9), (0.38, 1.08)]
    belly = lathe([(0, 0), (0.45, 0)], spline(profile, 8))
    lid = lathe(spline([(0.42, 1.06), (0.36, 1.14), (0.18, 1.22), (0, 1.25)], 6))
    spout_path = spline([(-0.6, 0, 0.4), (-0.9, 0, 0.5), (-1.05, 0, 0.8), (-1.25, 0, 1.02)], 6)
    spout = tube(spout_path, np.linspace(0.2, 0.09, len(spout_path)))
    handle_path = spline(
        [(0.62, 0, 0.92), (0.95, 0, 1.0), (1.15, 0, 0.72), (0.98, 0, 0.42), (0.7, 0, 0.32)], 6
    )
    parts = [
        Part("body", belly, coat),
        Part("lid", merged(lid, ellipsoid(0.11).moved(0, 0, 1.33)), knob),
        Part("spout", spout, coat),
        Part("handle", tube(handle_path, 0.08), coat),
    ]
    return [Part(p.name, p.mesh.scaled(size), p.surface) for p in parts]


def plate(look: Look) -> list[Part]:
    radius = look.between(1.0, 1.25)
    outer = spline([(radius * 0.6, 0), (radius * 0.7, 0.03), (radius, 0.16)])
    coat = look.paint(material="ceramic")
    rim_color = look.paint(look.other("white", "blue", "red", "green", "black"), "ceramic")
    rim = lathe([(radius * 1.0, 0.185), (radius * 0.9, 0.155)])
    return [Part("body", lathe(*vessel(outer, 0.05, 0.05)), coat), Part("rim", rim, rim_color)]


def bowl(look: Look) -> list[Part]:
    radius, height = look.between(0.75, 0.95), look.between(0.5, 0.65)
    outer = spline(
        [(radius * 0.45, 0), (radius * 0.75, 0.12), (radius * 0.95, height * 0.6), (radius, height)]
    )
    return [Part("body", lathe(*vessel(outer, 0.07)), look.paint(material="ceramic"))]


def apple(look: Look) -> list[Part]:
    radius = look.between(0.38, 0.46)
    skin = look.paint(material="skin", speck=0.18)
    profile = [
        (0, 0.12),
        (0.3, 0.0),
        (0.75, 0.25),
        (1.0, 0.95),
        (0.85, 1.5),
        (0.45, 1.72),
        (0.12, 1.6),
        (0, 1.45),
    ]
    stem = tube(spline([(0, 0, 1.4), (0.03, 0, 1.7), (0.14, 0, 2.0)]), 0.07).scaled(radius)
    leaf = ellipsoid(0.32, 0.15, 0.04).turned("y", -25).moved(0.42, 0, 1.95).scaled(radius)
    return [
        Part("body", lathe(spline(profile, 6)).scaled(radius), skin),
        Part("stem", stem, look.paint("brown", "wood")),
        Part("leaf", leaf, look.paint("green", "leaf")),
    ]


def pear(look: Look) -> list[Part]:
    radius = look.between(0.36, 0.42)
    skin = look.paint(material="skin", speck=0.2)
    profile = [
        (0, 0.06),
        (0.4, 0.0),
        (0.95, 0.5),
        (0.95, 1.1),
        (0.6, 1.8),
        (0.42, 2.3),
        (0.2, 2.58),
        (0, 2.58),
    ]
    stem = tube(spline([(0, 0, 2.5), (0.02, 0, 2.8), (0.14, 0, 3.05)]), 0.07).scaled(radius)
    return [
        Part("body", lathe(spline(profile, 6)).scaled(radius), skin),
        Part("stem", stem, look.paint("brown", "wood")),
    ]


def orange(look: Look) -> list[Part]:
    radius = look.between(0.38, 0.45)
    skin = look.paint("orange", "skin", speck=0.12)
    navel = ellipsoid(0.09, 0.09, 0.03).moved(0, 0, radius * 1.88)
    body = ellipsoid(radius, radius, radius * 0.95).moved(0, 0, radius * 0.95)
    return [Part("body", body, skin), Part("navel", navel, look.paint("green", "leaf"))]


def lemon(look: Look) -> list[Part]:
    radius = look.between(0.3, 0.36)
    profile = [
        (0, -1.5),
        (0.16, -1.4),
        (0.3, -1.22),
        (0.85, -0.7),
        (1, 0),
        (0.85, 0.7),
        (0.3, 1.22),
        (0.16, 1.4),
        (0, 1.5),
    ]
    mesh = lathe(spline(profile, 5)).scaled(radius).turned("y", 90).moved(0, 0, radius)
    return [Part("body", mesh, look.paint(material="skin", speck=0.1))]


def banana(look: Look) -> list[Part]:
    path = arc(1.15, 215, 325, 26)
    s = np.linspace(-1, 1, len(path))
    radius = 0.21 * np.sqrt(np.clip(1 - 0.75 * np.abs(s) ** 5, 0.05, 1))
    # It lies on its side: the arc is turned into the plane of the table.
    lay = lambda mesh: mesh.turned("x", 90).moved(0, -0.8, 0.19)  # noqa: E731
    tips = merged(
        tube(np.array([path[0], path[0] + (path[0] - path[1]) * 2.2]), 0.075),
        tube(np.array([path[-1], path[-1] + (path[-1] - path[-2]) * 0.7]), 0.06),
    )
    return [
        Part("body", lay(tube(path, radius)), look.paint(material="skin", speck=0.14)),
        Part("tip", lay(tips), look.paint("brown", "wood")),
    ]


def cookie(look: Look) -> list[Part]:
    radius = look.between(0.4, 0.5)
    dough = look.paint("brown", "baked", speck=0.3)
    dough = Surface(
        "brown",
        dough.rgb,
        "baked",
        0.85,
        texture=np.clip(
            (dough.texture if dough.texture is not None else 0.5) * np.array([1.65, 1.75, 1.75]),
            0,
            1,
        ),
    )
    profile = spline([(radius * 0.9, 0), (radius, 0.07), (radius * 0.85, 0.15), (0, 0.19)])
    chips = []
    for k in range(9):
        angle, r = 2.4 * k, radius * 0.28 * np.sqrt(k)
        chips.append(
            ellipsoid(0.055, segments=12).moved(r * np.cos(angle), r * np.sin(angle), 0.17)
        )
    return [
        Part("dough", lathe([(0, 0), (radius * 0.9, 0)], profile), dough),
        Part("chips", merged(*chips), look.paint("black", "baked")),
    ]


def donut(look: Look) -> list[Part]:
    big, small = 0.36, 0.2
    a = np.radians(np.linspace(0, 360, 40))
    ring = np.stack([big + small * np.cos(a), small + small * np.sin(a)], 1)
    top = np.radians(np.linspace(-5, 185, 24))
    ice = np.stack([big + small * 1.07 * np.cos(top), small + small * 1.07 * np.sin(top)], 1)
    rods = []
    for k in range(26):
        angle, tilt = k * 2.4, look.between(35, 145)
        r, z = big + 0.215 * np.cos(np.radians(tilt)), small + 0.215 * np.sin(np.radians(tilt))
        turn = look.between(0, 6.28)
        step = np.array([np.cos(turn), np.sin(turn), 0]) * 0.035
        at = np.array([r * np.cos(angle), r * np.sin(angle), z])
        rods.append(tube(np.array([at - step, at + step]), 0.014, sides=6))
    sprinkle = look.paint(look.other("white", "yellow", "red", "blue"))
    dough = Surface("brown", np.array([0.78, 0.55, 0.30]), "baked", 0.85)
    return [
        Part("dough", lathe(ring), dough),
        Part("icing", lathe(ice), look.paint(material="skin")),
        Part("sprinkles", merged(*rods), sprinkle),
    ]


def cupcake(look: Look) -> list[Part]:
    cup = lathe([(0, 0), (0.28, 0)], [(0.28, 0), (0.4, 0.42)], segments=96)
    wave = 1 + 0.05 * np.sign(np.sin(24 * np.arctan2(cup.vertices[:, 1], cup.vertices[:, 0])))
    cup = Mesh(
        cup.vertices * np.stack([wave, wave, np.ones_like(wave)], 1), cup.normals, cup.uv, cup.faces
    )
    rings = [
        lathe(spline([(r * 0.9, z), (r, z + 0.09), (r * 0.6, z + 0.19), (0, z + 0.2)], 5))
        for r, z in ((0.44, 0.4), (0.34, 0.55), (0.22, 0.7), (0.1, 0.84))
    ]
    return [
        Part("wrapper", cup, look.paint(look.other("brown", "white", "blue", "red"), "paper")),
        Part("cream", merged(*rings), look.paint(material="wax")),
        Part("cherry", ellipsoid(0.12).moved(0, 0, 1.06), look.paint("red", "skin")),
    ]


def lamp(look: Look) -> list[Part]:
    height = look.between(2.0, 2.5)
    foot = look.paint(look.other("brown", "black", "grey"), str(look.rng.choice(["wood", "metal"])))
    base = lathe([(0, 0), (0.6, 0)], spline([(0.6, 0), (0.62, 0.08), (0.3, 0.2), (0.1, 0.3)]))
    stand = lathe(
        spline([(0.1, 0.26), (0.16, height * 0.4), (0.09, height * 0.65), (0.08, height)])
    )
    low, high = height - 0.45, height + 0.75
    slope = np.array([(0.95, low), (0.55, high)])
    shade = lathe(slope, slope[::-1] - [0.02, 0])
    return [
        Part("base", base, foot),
        Part("stand", stand, foot),
        Part("shade", shade, look.paint(material="cloth", glow=0.22)),
    ]


def teddy(look: Look) -> list[Part]:
    fur = look.paint(material="plush", speck=0.45)
    pale = look.paint(look.other("white", "yellow", "pink"), "plush", speck=0.2)
    dark = look.paint("black" if look.color != "black" else "white")
    body = ellipsoid(0.62, 0.55, 0.72).moved(0, 0, 0.75)
    head = ellipsoid(0.52, 0.48, 0.47).moved(0, -0.05, 1.72)
    arms, legs, paws, ears, eyes = [], [], [], [], []
    for side in (-1, 1):
        arm = spline(
            [(0.45 * side, -0.05, 1.15), (0.75 * side, -0.3, 0.85), (0.72 * side, -0.55, 0.62)], 6
        )
        arms.append(tube(arm, np.linspace(0.2, 0.17, len(arm))))
        leg = spline(
            [(0.35 * side, -0.2, 0.28), (0.48 * side, -0.6, 0.25), (0.55 * side, -0.95, 0.26)], 6
        )
        legs.append(tube(leg, np.linspace(0.26, 0.24, len(leg))))
        paws.append(ellipsoid(0.19, 0.07, 0.19).moved(0.57 * side, -1.17, 0.27))
        ears.append(ellipsoid(0.2, 0.11, 0.2).moved(0.4 * side, 0.0, 2.12))
        eyes.append(ellipsoid(0.065, segments=14).moved(0.19 * side, -0.49, 1.83))
    return [
        Part("body", merged(body, *arms, *legs), fur),
        Part("head", head, fur),
        Part("ears", merged(*ears), fur),
        Part("belly", ellipsoid(0.42, 0.12, 0.45).moved(0, -0.47, 0.75), pale),
        Part("paws", merged(*paws), pale),
        Part("snout", ellipsoid(0.22, 0.17, 0.16).moved(0, -0.45, 1.62), pale),
        Part("nose", ellipsoid(0.09, 0.06, 0.06, 18).moved(0, -0.62, 1.69), dark),
        Part("eyes", merged(*eyes), dark),
    ]


def book(look: Look) -> list[Part]:
    x, y, z = look.between(1.2, 1.6), look.between(1.6, 2.0), look.between(0.22, 0.42)
    cover = merged(
        box(x, y, 0.04, 0.015),
        box(x, y, 0.04, 0.015).moved(0, 0, z - 0.04),
        box(0.05, y, z, 0.02).moved(-x / 2 + 0.025, 0, 0),
    )
    pages = box(x - 0.1, y - 0.12, z - 0.08, 0.01).moved(0.0, 0, 0.04)
    title = box(x * 0.5, y * 0.16, 0.012, 0.003).moved(0.03, y * 0.2, z - 0.006)
    return [
        Part("cover", cover, look.paint(material="paper")),
        Part("pages", pages, look.paint("white", "paper")),
        Part("title", title, look.paint(look.other("white", "yellow", "black"), "paper")),
    ]


def candle(look: Look) -> list[Part]:
    radius, height = look.between(0.26, 0.36), look.between(0.7, 1.3)
    a = np.linspace(0, 1, 8)
    wax = lathe(
        [(0, 0), (radius, 0)],
        [(radius, 0), (radius, height - 0.04)],
        [
            (radius, height - 0.04),
            (radius - 0.05, height),
            (radius * 0.7, height - 0.03),
            (0, height - 0.05),
        ],
    )
    wick = tube(np.stack([0.02 * a, 0 * a, height - 0.06 + 0.16 * a], 1), 0.02, 8)
    flame = lathe(spline([(0, 0), (0.07, 0.07), (0.085, 0.16), (0.05, 0.3), (0, 0.44)], 6))
    return [
        Part("wax", wax, look.paint(material="wax")),
        Part("wick", wick, look.paint("black", "cloth")),
        Part("flame", flame.moved(0.02, 0, height + 0.06), look.paint("orange", "wax", glow=2.2)),
    ]


def vase(look: Look) -> list[Part]:
    height = look.between(1.2, 1.5)
    profile = spline([(0.3, 0), (0.48, 0.3), (0.44, 0.65), (0.22, 0.95), (0.32, 1.2)], 8) * [
        1,
        height / 1.2,
    ]
    petal = look.other("pink", "red", "white", "yellow", "purple")
    stems, petals, hearts = [], [], []
    for k in range(5):
        angle, lean = 2 * np.pi * k / 5 + look.between(-0.3, 0.3), look.between(0.25, 0.55)
        top = np.array(
            [lean * np.cos(angle), lean * np.sin(angle), height + look.between(0.55, 0.95)]
        )
        stems.append(
            tube(
                spline([(0, 0, height * 0.5), (top[0] * 0.4, top[1] * 0.4, height * 1.05), top], 6),
                0.03,
                8,
            )
        )
        tilt = rotation("z", np.degrees(angle)) @ rotation("y", 50 * lean)
        bloom = np.eye(4)
        bloom[:3, :3], bloom[:3, 3] = tilt, top
        for j in range(7):
            p = ellipsoid(0.15, 0.085, 0.04, 16).turned("y", -20).moved(0.16, 0, 0.05)
            petals.append(p.turned("z", 360 * j / 7).bent(bloom))
        hearts.append(ellipsoid(0.1, 0.1, 0.07, 16).moved(0, 0, 0.06).bent(bloom))
    return [
        Part("body", lathe(*vessel(profile, 0.05)), look.paint(material="ceramic")),
        Part("stems", merged(*stems), look.paint("green", "leaf")),
        Part("flowers", merged(*petals), look.paint(petal, "leaf")),
        Part(
            "flower centers",
            merged(*hearts),
            look.paint("yellow" if petal != "yellow" else "brown", "leaf"),
        ),
    ]


def spoon(look: Look) -> list[Part]:
    material = {"brown": "wood", "grey": "metal", "yellow": "metal"}.get(look.color, "plastic")
    coat = look.paint(material=material)
    a = np.radians(np.linspace(-90, 0, 12))
    cup = np.stack([np.cos(a), 1 + np.sin(a)], 1)
    head = (
        lathe(cup, cup[::-1] * [0.93, 0.85] + [0, 0.15]).scaled(0.3, 0.42, 0.16).moved(0, -0.9, 0)
    )
    handle = spline([(0, -0.52, 0.13), (0, -0.1, 0.2), (0, 0.6, 0.12), (0, 1.15, 0.1)], 6)
    mesh = tube(handle, np.linspace(0.05, 0.09, len(handle)), 12)
    return [Part("head", head, coat), Part("handle", mesh, coat)]


def clock(look: Look) -> list[Part]:
    case = look.paint(material=str(look.rng.choice(["plastic", "metal"])))
    metal = look.paint(look.other("grey", "yellow"), "metal")
    up = lambda mesh: mesh.turned("x", 90).moved(0, 0, 0.85)  # noqa: E731
    a = np.radians(np.linspace(-90, 90, 9))
    rim = lathe(
        [(0, -0.25), (0.62, -0.25)],
        np.stack([0.62 + 0.06 * np.cos(a), 0.25 * np.sin(a)], 1),
        [(0.62, 0.25), (0.57, 0.25), (0.57, 0.2)],
    )
    hands, marks = [], []
    for length, angle, wide in (
        (0.3, look.between(0, 360), 0.03),
        (0.45, look.between(0, 360), 0.022),
    ):
        hands.append(
            box(wide * 2, length, 0.02, 0.005).moved(0, length / 2, 0.225).turned("z", angle)
        )
    for hour in range(12):
        marks.append(box(0.04, 0.1, 0.015, 0.004).moved(0, 0.48, 0.205).turned("z", 30 * hour))
    bells, legs = [], []
    for side in (-1, 1):
        dome = spline([(0.24, 0), (0.22, 0.1), (0.12, 0.19), (0, 0.21)], 5)
        bells.append(
            lathe(dome, [(0, 0), (0.24, 0)]).turned("y", 32 * side).moved(0.4 * side, 0, 1.46)
        )
        legs.append(tube(np.array([(0.35 * side, 0, 0.3), (0.48 * side, 0, 0.05)]), 0.06))
    dark = look.paint("black")
    return [
        Part("case", up(rim), case),
        Part(
            "face",
            up(disk(0.57, 0.2)),
            look.paint("white" if look.color != "white" else "yellow", "paper"),
        ),
        Part("hands", up(merged(*hands, *marks)), dark),
        Part("bells", merged(*bells), metal),
        Part("legs", merged(*legs), metal),
    ]


def duck(look: Look) -> list[Part]:
    coat = look.paint(material="plastic")
    body = ellipsoid(0.55, 0.68, 0.42).moved(0, 0.05, 0.4)
    tail = tube(
        spline([(0, 0.5, 0.5), (0, 0.72, 0.66), (0, 0.82, 0.86)], 6), np.linspace(0.2, 0.05, 13)
    )
    head = ellipsoid(0.36).moved(0, -0.32, 1.02)
    bill = ellipsoid(0.17, 0.2, 0.06).moved(0, -0.72, 0.95)
    eyes = merged(*(ellipsoid(0.055, segments=14).moved(0.15 * s, -0.62, 1.14) for s in (-1, 1)))
    wings = merged(
        *(ellipsoid(0.1, 0.36, 0.22).turned("x", 15).moved(0.52 * s, 0.12, 0.5) for s in (-1, 1))
    )
    return [
        Part("body", merged(body, tail), coat),
        Part("wings", wings, coat),
        Part("head", head, coat),
        Part("beak", bill, look.paint("orange" if look.color != "orange" else "red")),
        Part("eyes", eyes, look.paint("black" if look.color != "black" else "white")),
    ]


def car(look: Look) -> list[Part]:
    body = merged(box(1.0, 2.0, 0.42, 0.16).moved(0, 0, 0.2))
    cabin = box(0.86, 1.05, 0.42, 0.15).moved(0, 0.1, 0.55)
    glass = merged(
        box(0.9, 0.8, 0.2, 0.03).moved(0, 0.1, 0.65), box(0.66, 1.09, 0.2, 0.03).moved(0, 0.1, 0.65)
    )
    a = np.radians(np.linspace(-90, 90, 9))
    tyre = lathe(
        [(0, -0.11), (0.2, -0.11)],
        np.stack([0.2 + 0.07 * np.cos(a), 0.11 * np.sin(a)], 1),
        [(0.2, 0.11), (0, 0.11)],
    )
    places = [(x, y) for x in (-0.5, 0.5) for y in (-0.6, 0.62)]
    wheels = merged(*(tyre.turned("y", 90).moved(x, y, 0.27) for x, y in places))
    lights = merged(*(ellipsoid(0.1, 0.05, 0.1, 16).moved(x, -1.0, 0.42) for x in (-0.3, 0.3)))
    coat = look.paint()
    return [
        Part("body", body, coat),
        Part("roof", cabin, coat),
        Part(
            "windows",
            glass,
            look.paint("turquoise" if look.color != "turquoise" else "black", "skin"),
        ),
        Part("wheels", wheels, look.paint("black" if look.color != "black" else "grey")),
        Part("headlights", lights, look.paint("yellow" if look.color != "yellow" else "white")),
    ]


def house(look: Look) -> list[Part]:
    wide, deep, high = look.between(1.2, 1.5), look.between(1.1, 1.4), look.between(0.85, 1.1)
    roof_color = look.other("red", "brown", "blue", "black", "green")
    walls = box(wide, deep, high, 0.02)
    half = wide / 2 + 0.12
    prism = extrude([(-half, 0), (half, 0), (0, 0.75)], deep + 0.2)
    roof = prism.turned("x", 90).moved(0, deep / 2 + 0.1, high)
    door = box(0.3, 0.05, 0.55, 0.01).moved(0, -deep / 2 - 0.01, 0)
    panes = [
        box(0.26, 0.04, 0.26, 0.01).moved(x, -deep / 2 - 0.01, high * 0.5)
        for x in (-wide * 0.33, wide * 0.33)
    ]
    panes += [
        box(0.04, 0.28, 0.28, 0.01).moved(x, y, high * 0.45)
        for x in (-wide / 2 - 0.01, wide / 2 + 0.01)
        for y in (-deep * 0.22, deep * 0.22)
    ]
    stack = box(0.22, 0.22, 0.55, 0.015).moved(wide * 0.25, deep * 0.15, high + 0.25)
    return [
        Part("walls", walls, look.paint(material="wood")),
        Part("roof", roof, look.paint(roof_color, "wood")),
        Part("door", door, look.paint(look.other("brown", "red", "green", "blue"), "wood")),
        Part("windows", merged(*panes), look.paint("yellow" if look.color != "yellow" else "blue")),
        Part("chimney", stack, look.paint(look.other("grey", "brown", "red"), "wood")),
    ]


def ball(look: Look) -> list[Part]:
    radius = look.between(0.45, 0.65)
    coat = look.paint()
    if look.rng.random() < 0.6:
        other = look.paint(look.other("white", "yellow", "black"))
        bands = stripes(coat.rgb, other.rgb, 6, around=True)
        bands[40:88] = coat.rgb  # the main colour keeps the larger share
        bands[58:70] = other.rgb
        coat = Surface(coat.color, coat.rgb, coat.material, coat.roughness, texture=bands)
    turn = look.between(0, 50)
    return [Part("body", ellipsoid(radius).turned("x", turn).moved(0, 0, radius), coat)]


def gift(look: Look) -> list[Part]:
    x, y, z = look.between(0.9, 1.3), look.between(0.9, 1.3), look.between(0.7, 1.0)
    ribbon_color = look.paint(look.other("red", "yellow", "white", "blue", "green"), "cloth")
    bands = merged(box(0.18, y + 0.03, z + 0.015, 0.02), box(x + 0.03, 0.18, z + 0.015, 0.02))
    loop = arc(0.17, -60, 240, 18) * [1.3, 1, 0.8] + [0, 0, 0.14]
    bow = [
        tube(loop, 0.05, 10).turned("y", side * 52).turned("z", turn).moved(0, 0, z)
        for side in (-1, 1)
        for turn in (0, 90)
    ]
    return [
        Part("box", box(x, y, z, 0.03), look.paint(material="paper")),
        Part("ribbon", bands, ribbon_color),
        Part("bow", merged(*bow, ellipsoid(0.1).moved(0, 0, z + 0.08)), ribbon_color),
    ]


def plant(look: Look) -> list[Part]:
    pot = spline([(0.36, 0), (0.46, 0.4), (0.52, 0.78)], 5)
    leaves = []
    for k in range(16):
        tilt, turn, size = 18 + 58 * (k / 15), 137.5 * k, look.between(0.75, 1.0)
        leaf = ellipsoid(0.13, 0.04, 0.6 * size, 18).moved(0, 0, 0.6 * size)
        leaves.append(leaf.turned("y", tilt).turned("z", turn).moved(0, 0, 0.68))
    return [
        Part("pot", lathe(*vessel(pot, 0.06)), look.paint(material="ceramic")),
        Part("soil", disk(0.47, 0.68), look.paint("brown", "baked", speck=0.6)),
        Part("leaves", merged(*leaves), look.paint("green", "leaf", speck=0.3)),
    ]


def bottle(look: Look) -> list[Part]:
    height = look.between(1.9, 2.3)
    glass = lathe(
        [(0, 0), (0.32, 0)],
        spline(
            [
                (0.32, 0),
                (0.36, 0.08),
                (0.36, height * 0.52),
                (0.14, height * 0.72),
                (0.13, height * 0.93),
            ],
            7,
        ),
    )
    label = lathe([(0.367, height * 0.16), (0.367, height * 0.44)])
    cap = lathe([(0.16, height * 0.92), (0.16, height)], [(0.16, height), (0, height)])
    return [
        Part("body", glass, look.paint(material="ceramic")),
        Part("label", label, look.paint(look.other("white", "yellow", "red"), "paper")),
        Part("cap", cap, look.paint(look.other("grey", "red", "black", "yellow"), "metal")),
    ]


KINDS: dict[str, Kind] = {
    "mug": Kind(
        mug, ANY, 0.75, names=("coffee mug", "coffee cup", "tea cup"), unheard=("cup", "teacup")
    ),
    "teapot": Kind(teapot, ANY, 1.2, names=("tea pot",), unheard=("pot of tea",)),
    "plate": Kind(plate, ANY, 1.25, names=("dish",), unheard=("saucer",)),
    "bowl": Kind(bowl, ANY, 0.95, names=("fruit bowl",), unheard=("soup bowl",)),
    "apple": Kind(apple, ("red", "green", "yellow"), 0.48, names=("apple fruit",), unheard=()),
    "pear": Kind(pear, ("green", "yellow"), 0.45, names=("pear fruit",), unheard=()),
    "orange": Kind(
        orange,
        ("orange",),
        0.45,
        names=("orange fruit", "mandarin"),
        unheard=("tangerine", "clementine"),
    ),
    "lemon": Kind(
        lemon, ("yellow", "yellow", "green"), 0.5, names=("citrus fruit",), unheard=("lime",)
    ),
    "banana": Kind(
        banana, ("yellow", "yellow", "green"), 1.1, names=("ripe banana",), unheard=("plantain",)
    ),
    "cookie": Kind(
        cookie, ("brown",), 0.5, names=("chocolate chip cookie", "cookies"), unheard=("biscuit",)
    ),
    "donut": Kind(
        donut,
        ("pink", "white", "blue", "purple", "turquoise", "yellow", "green"),
        0.6,
        names=("glazed donut",),
        unheard=("doughnut",),
    ),
    "cupcake": Kind(
        cupcake,
        ("pink", "white", "blue", "purple", "turquoise", "yellow"),
        0.46,
        names=("small cake",),
        unheard=("muffin",),
    ),
    "lamp": Kind(
        lamp, BRIGHT, 0.9, names=("table lamp", "light"), unheard=("desk lamp", "lantern")
    ),
    "teddy bear": Kind(
        teddy,
        ("brown", "white", "pink", "grey", "blue", "purple", "orange", "black"),
        1.1,
        names=("bear", "stuffed bear", "plush bear"),
        unheard=("teddy", "stuffed animal"),
    ),
    "book": Kind(book, ANY, 1.2, names=("hardcover book",), unheard=("novel", "textbook")),
    "candle": Kind(candle, BRIGHT, 0.4, names=("wax candle",), unheard=("candlestick",)),
    "vase": Kind(vase, ANY, 0.7, names=("flower vase", "vase with flowers"), unheard=("urn",)),
    "spoon": Kind(
        spoon,
        ("grey", "grey", "yellow", "brown", "red", "blue", "green"),
        1.1,
        names=("soup spoon",),
        unheard=("teaspoon",),
    ),
    "clock": Kind(clock, ANY, 0.75, names=("alarm clock",), unheard=("timepiece", "alarm")),
    "rubber duck": Kind(
        duck, ("yellow", "yellow", *ANY), 0.85, names=("duck", "toy duck"), unheard=("duckling",)
    ),
    "toy car": Kind(car, ANY, 1.1, names=("car", "model car"), unheard=("automobile", "vehicle")),
    "house": Kind(house, ANY, 1.0, names=("toy house", "home"), unheard=("cottage", "dollhouse")),
    "ball": Kind(ball, ANY, 0.65, names=("toy ball",), unheard=("beach ball", "sphere")),
    "gift box": Kind(gift, ANY, 0.95, names=("gift", "wrapped box"), unheard=("present", "parcel")),
    "plant": Kind(
        plant, ANY, 0.8, names=("house plant", "pot plant"), unheard=("potted plant", "shrub")
    ),
    "bottle": Kind(bottle, ANY, 0.4, names=("wine bottle",), unheard=("flask",)),
}

# The parts of these kinds and their names; the first is the part's own.
PART_WORDS: dict[str, tuple[str, ...]] = {
    "body": ("body",),
    "handle": ("handle", "grip"),
    "coffee": ("coffee", "drink", "tea", "beverage"),
    "lid": ("lid",),
    "spout": ("spout",),
    "rim": ("rim", "border"),
    "stem": ("stem", "stalk"),
    "leaf": ("leaf", "leaves"),
    "navel": ("navel",),
    "tip": ("tip",),
    "dough": ("dough",),
    "chips": ("chocolate chips", "chips"),
    "icing": ("icing", "glaze", "frosting"),
    "sprinkles": ("sprinkles",),
    "wrapper": ("wrapper", "paper cup"),
    "cream": ("cream", "whipped cream", "frosting"),
    "cherry": ("cherry",),
    "base": ("base", "foot"),
    "stand": ("stand", "pole"),
    "shade": ("shade", "lampshade", "lamp shade"),
    "head": ("head",),
    "ears": ("ears", "ear"),
    "belly": ("belly", "tummy", "stomach"),
    "paws": ("paws", "paw", "feet"),
    "snout": ("snout", "muzzle"),
    "nose": ("nose",),
    "eyes": ("eyes", "eye"),
    "cover": ("cover", "book cover"),
    "pages": ("pages", "page"),
    "title": ("title", "title label"),
    "wax": ("wax",),
    "wick": ("wick",),
    "flame": ("flame", "fire", "candle light"),
    "flowers": ("flowers", "flower", "petals", "bouquet", "blossom"),
    "flower centers": ("flower centers",),
    "case": ("case",),
    "face": ("clock face", "dial", "face"),
    "hands": ("hands", "clock hands"),
    "bells": ("bells", "bell"),
    "legs": ("legs", "leg"),
    "wings": ("wings", "wing"),
    "beak": ("beak", "bill"),
    "roof": ("roof", "rooftop"),
    "windows": ("windows", "window"),
    "wheels": ("wheels", "wheel", "tires", "tyres"),
    "headlights": ("headlights", "headlight"),
    "walls": ("walls",),
    "door": ("door",),
    "chimney": ("chimney",),
    "box": ("box",),
    "ribbon": ("ribbon",),
    "bow": ("bow", "bow tie"),
    "pot": ("pot", "flower pot", "flowerpot"),
    "soil": ("soil", "dirt", "earth"),
    "label": ("label", "sticker"),
    "cap": ("cap",),
}
