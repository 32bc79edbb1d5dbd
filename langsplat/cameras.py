"""Orbit cameras, the frame of a scene they orbit in, and lenses with their undistortion.

In: the position of an orbit, or the distortion of a lens. Out: `scene.Camera`, always a pinhole.

World-to-camera matrices, OpenCV axes (x right, y down, z forward), pixel centres at +0.5, angles in
degrees. An orbit is given by yaw (around `up`, counterclockwise seen from above), pitch (positive =
above the centre) and distance (in units of the radius at which the scene's cameras stand).

    center, up, radius = world_frame(capture.cameras, capture.points)
    camera = orbit_camera(center, up, radius, 30.0, 20.0, 1.0, 640, 480, 50.0)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from langsplat.scene import Camera, as_tensor

MAX_PITCH = 89.0  # degrees; straight from above, `up` no longer determines the camera's roll
# The pinhole picture of a distorted photo has between these multiples of the photo's size.
SMALLEST_CROP, LARGEST_CROP = 0.2, 1.5
FISHEYE_RIM = 1e-9  # radius below which a fisheye is the identity


def look_at(position: ArrayLike, target: ArrayLike, up: ArrayLike) -> Tensor:
    """The world-to-camera matrix of a camera at `position` that looks at `target`.

    Args:
        position, target, up: [3] in the world, of any number type; arrays and lists will do. `up`
            need not be perpendicular to the view.
    Returns:
        [4, 4], OpenCV axes; `up` points up in the picture.
    Raises:
        ValueError: the view direction is zero or parallel to `up`.
    """
    position, target, up = _alike(position, target, up)
    forward = target - position
    right = torch.linalg.cross(forward, up)
    if float(right.norm()) <= 1e-6 * float(forward.norm()) * float(up.norm()):
        raise ValueError("The camera must look at another point, and not along its own up.")
    forward, right = F.normalize(forward, dim=0), F.normalize(right, dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    viewmat = torch.eye(4, dtype=position.dtype)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ position
    return viewmat


def orbit_camera(
    center: ArrayLike,
    up: ArrayLike,
    radius: float,
    yaw: float,
    pitch: float,
    distance: float,
    width: int,
    height: int,
    fov: float,
) -> Camera:
    """A camera on a sphere around `center`, looking at it.

    Args:
        center, up: [3] in the world, of any number type; arrays and lists will do.
        radius: world units, > 0; where the scene's own cameras stand.
        yaw: degrees around `up`.
        pitch: degrees above the centre; clamped to -89 ... 89.
        distance: in units of `radius`, > 0.
        width, height: pixels.
        fov: degrees across the longer side, in (0, 180).
    Raises:
        ValueError: `fov`, `radius` or `distance` is out of range.
    """
    if not 0 < fov < 180:
        raise ValueError(f"The field of view must lie between 0 and 180 degrees, got {fov}.")
    if not (radius > 0 and distance > 0):
        raise ValueError("The camera's distance from the centre must be positive.")
    pitch = min(max(pitch, -MAX_PITCH), MAX_PITCH)
    center, up = _alike(center, up)
    up, east, north = _orbit_axes(up)
    flat = math.cos(math.radians(yaw)) * east + math.sin(math.radians(yaw)) * north
    offset = math.cos(math.radians(pitch)) * flat + math.sin(math.radians(pitch)) * up
    position = center + radius * distance * offset
    focal = 0.5 * max(width, height) / math.tan(math.radians(fov) / 2)
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Camera(look_at(position, center, up), K, width, height, "orbit")


def yaw_pitch_of(camera: Camera, center: ArrayLike, up: ArrayLike) -> tuple[float, float]:
    """The yaw in (-180, 180] and pitch, in degrees, at which an orbit passes through `camera`."""
    center, up = _alike(center, up)
    up, east, north = _orbit_axes(up)
    offset = F.normalize(camera.position.to(up) - center, dim=0)
    pitch = math.degrees(math.asin(min(max(float(offset @ up), -1.0), 1.0)))
    return math.degrees(math.atan2(float(offset @ north), float(offset @ east))), pitch


def _alike(*vectors: ArrayLike) -> tuple[Tensor, ...]:
    """Vectors [3], also arrays and lists, on the CPU and of one type, float32 at least."""
    rows = torch.stack([as_tensor(vector).cpu() for vector in vectors])
    return rows.to(torch.promote_types(rows.dtype, torch.float32)).unbind()


def _orbit_axes(up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`up` normalised, and the two horizontal unit axes that yaw is measured from; all [3]."""
    up = F.normalize(up, dim=0)
    seed = torch.zeros_like(up)
    seed[int(up.abs().argmin())] = 1.0  # the world axis farthest from up
    east = F.normalize(seed - (seed @ up) * up, dim=0)
    return up, east, torch.linalg.cross(up, east)


def world_frame(
    cameras: Sequence[Camera], points: ArrayLike | None = None
) -> tuple[Tensor, Tensor, float]:
    """The centre, up and radius of a scene, as `orbit_camera` takes them.

    Up is the mean of the cameras' up axes, refined to the normal of the plane that the cameras'
    horizontal axes span (people hold cameras level even when they look down). The centre is the
    point nearest to all optical axes or, if the cameras do not look at one thing, the middle of
    what they see.

    Args:
        cameras: at least one.
        points: [P, 3] of the scene, a tensor or an array; [0, 3] or None if there are none.
    Returns:
        center [3], up [3] unit, radius > 0: the median distance of the cameras to the centre.
    Raises:
        ValueError: there is no camera.
    """
    if not cameras:
        raise ValueError("A scene needs at least one camera.")
    poses = torch.stack([camera.camtoworld for camera in cameras]).double().cpu()
    right, down, forward, position = poses[:, :3, :4].unbind(dim=2)
    up = _level_up(right, -down)
    points = as_tensor(() if points is None else points).double().cpu().reshape(-1, 3)

    # Sum over axes of the squared distance to the point: (I - d d^T)(x - p) = 0, least squares.
    flat = torch.eye(3, dtype=poses.dtype) - forward[:, :, None] * forward[:, None, :]
    system = flat.sum(dim=0)
    # A weak pull to the middle of what is seen decides along directions that the axes leave open.
    seen = _middle_seen(position, forward, points)
    pull = 1e-4 * len(cameras)
    target = (flat @ position[:, :, None]).sum(dim=0)[:, 0] + pull * seen
    center = torch.linalg.solve(system + pull * torch.eye(3, dtype=poses.dtype), target)
    if not _is_looked_at(center, position, forward, points):
        center = seen
    radius = float((position - center).norm(dim=1).median())
    if not radius > 1e-6:
        radius = 1.0
    return center.float(), up.float(), radius


def _level_up(right: Tensor, up_axes: Tensor) -> Tensor:
    mean = up_axes.mean(dim=0)
    if float(mean.norm()) < 1e-3:  # the cameras' ups cancel out: any is as good as another
        mean = up_axes[0]
    mean = F.normalize(mean, dim=0)
    spread, axes = torch.linalg.eigh(right.T @ right / len(right))
    level = axes[:, 0] * torch.sign(axes[:, 0] @ mean)
    # Only if the horizontal axes really span a plane, and do not contradict the plain mean.
    trusted = float(spread[1]) > 0.05 and float(spread[1]) > 4 * float(spread[0])
    return level if trusted and float(level @ mean) > math.cos(math.radians(35)) else mean


def _middle_seen(position: Tensor, forward: Tensor, points: Tensor) -> Tensor:
    """The median [3] of the points that cameras see, each point once for every camera seeing it."""
    if len(points):
        most = max(1, min(5000, 2_000_000 // len(position)))  # bounds C P
        sample = points[:: max(1, len(points) // most)]
        offset = sample[None] - position[:, None]  # [C, P, 3]
        depth = (offset * forward[:, None]).sum(dim=-1)
        # Within 30 degrees of the optical axis: seen by any usual lens.
        seen = depth > math.cos(math.radians(30)) * offset.norm(dim=-1)
        if bool(seen.any()):
            return torch.cat([sample[mask] for mask in seen]).median(dim=0).values
        return points.median(dim=0).values
    middle = position.mean(dim=0)
    extent = float((position - middle).norm(dim=1).max())
    return middle + forward.mean(dim=0) * (extent if extent > 0 else 1.0)


def _is_looked_at(center: Tensor, position: Tensor, forward: Tensor, points: Tensor) -> bool:
    """Whether the centre is in front of most cameras and, if there are points, among them."""
    if not bool(torch.isfinite(center).all()):
        return False
    in_front = ((center - position) * forward).sum(dim=1) > 0
    if float(in_front.double().mean()) < 0.6:
        return False
    if len(points) < 20:
        return True
    sample = points[:: max(1, len(points) // 100_000)]
    low, high = torch.quantile(sample, torch.tensor([0.05, 0.95], dtype=points.dtype), dim=0)
    slack = 0.25 * (high - low)
    return bool(((center >= low - slack) & (center <= high + slack)).all())


@dataclass(frozen=True)
class Lens:
    """How a real camera maps directions to pixels: a pinhole, then a distortion.

    With (x, y) the pinhole's picture at unit focal length and r its radius:
    perspective: (x, y) * (1 + n1 r^2 + n2 r^4 + ...) / (1 + d1 r^2 + ...) + tangential(p1, p2);
    fisheye: the radius becomes t (1 + n1 t^2 + n2 t^4 + ...), t = atan(r).
    These are COLMAP's and OpenCV's models.

    Args:
        width, height: pixels of the photo the other numbers are for.
        fx, fy, cx, cy: pixels; pixel centres at +0.5.
        numerator, denominator: n1 ... and d1 ...
        tangential: p1, p2.
        fisheye: which of the two kinds.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    numerator: tuple[float, ...] = ()
    denominator: tuple[float, ...] = ()
    tangential: tuple[float, float] = (0.0, 0.0)
    fisheye: bool = False

    def __post_init__(self) -> None:
        for name in ("numerator", "denominator", "tangential"):  # lists and arrays will do
            object.__setattr__(self, name, tuple(getattr(self, name)))
        distortion = (*self.numerator, *self.denominator, *self.tangential)
        numbers = (self.fx, self.fy, self.cx, self.cy, *distortion)
        if not all(abs(number) < 1e9 for number in numbers):  # fails for NaN
            raise ValueError("A camera's focal length, centre and distortion must be numbers.")
        if not (self.fx > 0 and self.fy > 0):
            raise ValueError(f"A focal length must be positive, got {self.fx:g} x {self.fy:g}.")
        # May be larger than a picture: the photos at hand are often shrunk, and checked themselves.
        if not (1 <= min(self.width, self.height) <= max(self.width, self.height) < 1e9):
            raise ValueError(
                "A camera's width and height must be at least 1 and below 1,000,000,000 pixels, "
                f"got {self.width:g} x {self.height:g}: export the cameras again."
            )

    @property
    def bends(self) -> bool:
        return self.fisheye or any((*self.numerator, *self.denominator, *self.tangential))

    def for_size(self, width: int, height: int) -> "Lens":
        """The same lens over a photo of the same shape in another resolution.

        Raises:
            ValueError: the photo has another shape (by more than 1 %).
        """
        sx, sy = width / self.width, height / self.height
        if abs(sx / sy - 1) > 0.01:
            raise ValueError(
                f"A lens for {self.width} x {self.height} pixels does not fit a photo of {width} x "
                f"{height}: take the camera of this photo."
            )
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            cx=self.cx * sx,
            fy=self.fy * sy,
            cy=self.cy * sy,
        )

    def distort(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where this lens maps points [..., 2] of a pinhole picture, both at unit focal length."""
        x, y = xy[..., 0], xy[..., 1]
        r2 = x * x + y * y
        if self.fisheye:
            r = np.sqrt(r2)
            theta = np.arctan(r)
            bent = theta * (1 + _powers(theta * theta, self.numerator))
            factor = np.where(r > FISHEYE_RIM, bent / np.maximum(r, FISHEYE_RIM), 1.0)
            return xy * factor[..., None]
        factor = (1 + _powers(r2, self.numerator)) / (1 + _powers(r2, self.denominator))
        p1, p2 = self.tangential
        dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
        return np.stack([x * factor + dx, y * factor + dy], axis=-1)

    def pinhole(self, max_side: int | None = None) -> tuple[NDArray[np.float64], int, int]:
        """The pinhole camera that replaces this lens, without black borders.

        The focal length is kept; the picture is the largest one of the photo's shape, around its
        principal point, that lies wholly inside the photo. Both are then scaled so that the long
        side is at most `max_side`.

        Returns:
            K [3, 3], width, height.
        """
        crop = _largest_crop(self) if self.bends else 1.0
        scale = crop if max_side is None else min(crop, max_side / max(self.width, self.height))
        width, height = (max(1, round(side * scale)) for side in (self.width, self.height))
        sx, sy = width / (self.width * crop), height / (self.height * crop)
        K = np.diag([self.fx * sx, self.fy * sy, 1.0])
        K[:2, 2] = self.cx * crop * sx, self.cy * crop * sy
        return K, width, height

    def fits(self, crop: float) -> bool:
        """Whether the pinhole picture of `crop` times the size is in the photo, without a fold."""
        x, y = np.meshgrid(np.linspace(0, self.width, 33), np.linspace(0, self.height, 33))
        xy = np.stack([(x - self.cx) / self.fx, (y - self.cy) / self.fy], axis=-1) * crop
        dx, dy = np.array([1e-4, 0.0]), np.array([0.0, 1e-4])
        with np.errstate(all="ignore"):
            bent = self.distort(xy)
            right = self.distort(xy + dx) - self.distort(xy - dx)
            down = self.distort(xy + dy) - self.distort(xy - dy)
        u, v = bent[..., 0] * self.fx + self.cx, bent[..., 1] * self.fy + self.cy
        slack = 0.25  # pixels; the border pixel is repeated there
        inside = (u >= -slack) & (u <= self.width + slack) & (v >= -slack)
        if not bool((inside & (v <= self.height + slack)).all()):
            return False
        # Beyond its fold a polynomial lens shows the scene twice, mirrored the second time.
        return bool((right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0] > 0).all())

    def straighten(
        self, photo: NDArray[np.uint8], K: NDArray[np.float64], width: int, height: int
    ) -> NDArray[np.uint8]:
        """Resample a photo [h, w, 3] taken with this lens, in any resolution, as pinhole K sees it.

        Bicubic at the target's size; shrink the photo to about that size first, or it aliases.
        """
        x = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
        y = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
        bent = self.distort(np.stack(np.meshgrid(x, y), axis=-1))
        u = (bent[..., 0] * self.fx + self.cx) / self.width * 2 - 1
        v = (bent[..., 1] * self.fy + self.cy) / self.height * 2 - 1
        grid = torch.from_numpy(np.stack([u, v], axis=-1)).float()[None]
        source = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
        out = F.grid_sample(source, grid, "bicubic", padding_mode="border", align_corners=False)
        out = out[0].permute(1, 2, 0).round_().clamp_(0, 255).to(torch.uint8)
        return np.ascontiguousarray(out.numpy())


@lru_cache(maxsize=64)  # most photos of a capture share a lens
def _largest_crop(lens: Lens) -> float:
    """By bisection: if a picture around the principal point is inside, so is any smaller one."""
    if lens.fits(LARGEST_CROP):
        return LARGEST_CROP
    low, high = SMALLEST_CROP, LARGEST_CROP
    if not lens.fits(low):
        raise ValueError(
            "The distortion of this camera cannot be undone: "
            "undistort the photos first (COLMAP's image_undistorter)."
        )
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if lens.fits(middle) else (low, middle)
    return low


def _powers(square: NDArray[np.float64], coefficients: tuple[float, ...]) -> NDArray[np.float64]:
    """c1 s + c2 s^2 + ... by Horner's rule."""
    total = np.zeros_like(square)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * square
    return total
