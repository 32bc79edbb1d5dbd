"""Triangle meshes from a few numbers: lathes, tubes, rounded boxes, ellipsoids, extrusions.

Everything is numpy, in a frame of its own with z up. All recipes measure lengths in decimetres, so
everyday things are about one unit large. Letters: V vertices, F triangles.

    cup = lathe([(0, 0), (0.4, 0), (0.4, 0.9)])
    handle = tube(arc(0.3, -80, 80), 0.06).moved(0.4, 0, 0.45)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Points = Sequence[Sequence[float]] | np.ndarray


@dataclass(frozen=True, eq=False)
class Mesh:
    """Vertices [V, 3], unit normals [V, 3], texture coordinates [V, 2] in [0, 1], faces [F, 3]."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray

    def moved(self, x: float = 0, y: float = 0, z: float = 0) -> "Mesh":
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def scaled(self, x: float, y: float | None = None, z: float | None = None) -> "Mesh":
        factors = np.array([x, x if y is None else y, x if z is None else z])
        normals = self.normals / factors
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return replace(self, vertices=self.vertices * factors, normals=normals)

    def turned(self, axis: str, degrees: float) -> "Mesh":
        """Turned by the right-hand rule about a coordinate axis through the origin."""
        matrix = rotation(axis, degrees)
        return replace(self, vertices=self.vertices @ matrix.T, normals=self.normals @ matrix.T)

    def bent(self, matrix: np.ndarray) -> "Mesh":
        """Moved by a rigid 4 x 4 matrix."""
        turn = matrix[:3, :3]
        return replace(
            self, vertices=self.vertices @ turn.T + matrix[:3, 3], normals=self.normals @ turn.T
        )


def rotation(axis: str, degrees: float) -> np.ndarray:
    """[3, 3] rotation about "x", "y" or "z"."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def merged(*meshes: Mesh) -> Mesh:
    """Join several meshes."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate([m.faces + start for m, start in zip(meshes, starts, strict=True)]),
    )


def spline(points: Points, per_segment: int = 6, *, closed: bool = False) -> np.ndarray:
    """A smooth curve through the points (Catmull-Rom), [S, dims]."""
    p = np.asarray(points, float)
    ends = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    q = np.concatenate([ends[0], p, ends[1]])
    t = np.linspace(0, 1, per_segment, endpoint=False)[:, None]
    pieces = [
        0.5
        * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3)
        for a, b, c, d in zip(q[:-3], q[1:-2], q[2:-1], q[3:], strict=True)
    ]
    return np.concatenate(pieces if closed else [*pieces, p[-1:]])


def arc(radius: float, start: float, end: float, steps: int = 20) -> np.ndarray:
    """Points on a circle in the x-z plane, degrees counted from +x towards +z, [S, 3]."""
    a = np.radians(np.linspace(start, end, steps))
    return np.stack([radius * np.cos(a), np.zeros(steps), radius * np.sin(a)], axis=1)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a = (i * columns + j).ravel()
    return np.concatenate(
        [np.stack([a, a + 1, a + columns], 1), np.stack([a + 1, a + columns + 1, a + columns], 1)]
    )


def lathe(*profiles: Points, segments: int = 48) -> Mesh:
    """Profiles of (radius, z), each a smooth strip, turned about z; corners between strips stay
    sharp. For normals that point outwards, profiles go up the outside (and down the inside)."""
    return merged(*(_lathe_strip(np.asarray(profile, float), segments) for profile in profiles))


def _lathe_strip(profile: np.ndarray, segments: int) -> Mesh:
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    tangent = np.gradient(profile, axis=0)
    out, up = tangent[:, 1], -tangent[:, 0]
    length = np.maximum(np.hypot(out, up), 1e-9)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [A, 2]
    rows = len(profile)
    vertices = np.empty((rows, segments + 1, 3))
    vertices[..., :2] = profile[:, 0, None, None] * around
    vertices[..., 2] = profile[:, 1, None]
    normals = np.empty_like(vertices)
    normals[..., :2] = (out / length)[:, None, None] * around
    normals[..., 2] = (up / length)[:, None]
    uv = np.stack(
        np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, segments + 1), indexing="ij")[::-1],
        axis=-1,
    )
    faces = _grid_faces(rows, segments + 1)
    return Mesh(vertices.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), faces)


def disk(radius: float, z: float = 0.0, segments: int = 48) -> Mesh:
    """A round plate facing up; its texture is laid on from above."""
    mesh = _lathe_strip(np.array([(radius, z), (0.0, z)]), segments)
    return replace(mesh, uv=mesh.vertices[:, :2] / (2 * radius) + 0.5)


def ellipsoid(x: float, y: float | None = None, z: float | None = None, segments: int = 40) -> Mesh:
    """With semi-axes x, y, z, about the origin; a sphere if only x is given."""
    a = np.radians(np.linspace(-90, 90, max(6, segments // 2) + 1))
    sphere = _lathe_strip(np.stack([np.cos(a), np.sin(a)], 1), segments)
    # Finite differences flatten the poles; on a unit sphere the normal is the point.
    return replace(sphere, normals=sphere.vertices.copy()).scaled(x, y, z)


def tube(path: Points, radius: float | Sequence[float] | np.ndarray, sides: int = 14) -> Mesh:
    """A round tube along the path [S, 3] with rounded ends; radius may vary along it [S]."""
    p = np.asarray(path, float)
    r = np.broadcast_to(np.asarray(radius, float), len(p)).copy()
    first, last = p[0] - p[1], p[-1] - p[-2]
    first, last = first / np.linalg.norm(first), last / np.linalg.norm(last)
    bend = np.array([0.999, 0.9, 0.7, 0.4])
    rise = np.sqrt(1 - bend**2)
    head = p[0] + first * (r[0] * bend)[:, None]
    tail = p[-1] + last * (r[-1] * bend[::-1])[:, None]
    p = np.concatenate([head, p, tail])
    r = np.concatenate([r[0] * rise, r, r[-1] * rise[::-1]])
    tangent = np.gradient(p, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent[0], [0, 0, 1] if abs(tangent[0, 2]) < 0.9 else [1, 0, 0])
    frames = np.empty((len(p), 2, 3))
    for row, direction in enumerate(tangent):  # the frame is carried along, so it never twists
        side = side - direction * (side @ direction)
        side = side / np.linalg.norm(side)
        frames[row] = side, np.cross(direction, side)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    normals = np.einsum("ak,skd->sad", ring, frames)
    slope = np.gradient(r) / np.maximum(np.linalg.norm(np.gradient(p, axis=0), axis=1), 1e-9)
    vertices = p[:, None] + r[:, None, None] * normals
    normals = normals - np.clip(slope, -4, 4)[:, None, None] * tangent[:, None]
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    uv = np.stack(
        np.meshgrid(np.linspace(0, 1, len(p)), np.linspace(0, 1, sides + 1), indexing="ij"), -1
    )
    faces = _grid_faces(len(p), sides + 1)
    return Mesh(vertices.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), faces)


def box(x: float, y: float, z: float, bevel: float = 0.04) -> Mesh:
    """A box with rounded edges, standing on z = 0, centred in x and y."""
    half = np.array([x, y, z]) / 2
    bevel = min(bevel, 0.45 * min(x, y, z))
    faces = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        lines = []
        for k in (u, v):
            corner = np.linspace(0, bevel, 4)
            lines.append(np.concatenate([-half[k] + corner, half[k] - corner[::-1]]))
        a, b = np.meshgrid(*lines, indexing="ij")
        for sign in (1, -1):
            points = np.empty((*a.shape, 3))
            points[..., u], points[..., v], points[..., axis] = a, b, sign * half[axis]
            core = np.clip(points, -(half - bevel), half - bevel)
            normals = points - core
            normals /= np.linalg.norm(normals, axis=2, keepdims=True)
            uv = np.stack([a / half[u], b / half[v]], -1) / 2 + 0.5
            triangles = _grid_faces(*a.shape)
            triangles = triangles[:, ::-1] if sign < 0 else triangles
            points = core + bevel * normals
            faces.append(
                Mesh(points.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), triangles)
            )
    return merged(*faces).moved(0, 0, z / 2)


def extrude(outline: Points, depth: float) -> Mesh:
    """A flat shape [S, 2] in x-y, star-shaped about its mean, between z = 0 and z = depth."""
    p = np.asarray(outline, float)
    area = np.sum(p[:, 0] * np.roll(p[:, 1], -1) - p[:, 1] * np.roll(p[:, 0], -1))
    p = p if area > 0 else p[::-1]
    n = len(p)
    low, size = p.min(0), np.ptp(p, axis=0)
    meshes = []
    for z, sign in ((0.0, -1), (depth, 1)):
        flat = np.concatenate([p, p.mean(0)[None]])
        fan = np.stack([np.arange(n), (np.arange(n) + 1) % n, np.full(n, n)], 1)
        meshes.append(
            Mesh(
                np.column_stack([flat, np.full(n + 1, z)]),
                np.tile([0.0, 0.0, sign], (n + 1, 1)),
                (flat - low) / size,
                fan if sign > 0 else fan[:, ::-1],
            )
        )
    q = np.roll(p, -1, axis=0)
    edge = q - p
    out = np.column_stack([edge[:, 1], -edge[:, 0], np.zeros(n)])
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    bottom = np.stack([p, q], 1).reshape(-1, 2)
    vertices = np.concatenate(
        [
            np.column_stack([bottom, np.zeros(2 * n)]),
            np.column_stack([bottom, np.full(2 * n, depth)]),
        ]
    )
    normals = np.tile(np.repeat(out, 2, axis=0), (2, 1))
    a = 2 * np.arange(n)
    sides = np.concatenate(
        [np.stack([a, a + 1, a + 2 * n], 1), np.stack([a + 1, a + 1 + 2 * n, a + 2 * n], 1)]
    )
    uv = (vertices[:, :2] - low) / size
    return merged(*meshes, Mesh(vertices, normals, uv, sides))


def rectangle(x: float, y: float) -> Mesh:
    """A flat rectangle facing up."""
    vertices = np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]], float) / 2
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    return Mesh(vertices, np.tile([0.0, 0, 1], (4, 1)), uv, np.array([[0, 1, 2], [0, 2, 3]]))
