"""Cameras: look-at and orbits, the world's frame, and lenses made straight."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from langsplat.cameras import Lens, look_at, orbit_camera, world_frame, yaw_pitch_of
from langsplat.scene import Camera

UP = torch.tensor([0.0, 0.0, 1.0])
CENTER = torch.tensor([1.0, -2.0, 0.5])


def project(camera: Camera, point: torch.Tensor) -> torch.Tensor:
    inside = camera.viewmat[:3, :3] @ point + camera.viewmat[:3, 3]
    return (camera.K @ inside)[:2] / inside[2]


def ring(count: int = 12, sweep: float = 360.0, pitch: float = 30.0, up=UP) -> list[Camera]:
    return [
        orbit_camera(CENTER, up, 3.0, sweep * k / count, pitch, 1.0, 64, 48, 50.0)
        for k in range(count)
    ]


def test_look_at_puts_the_target_on_the_axis_and_up_towards_the_top_of_the_picture():
    viewmat = look_at(torch.tensor([3.0, 1.0, 2.0]), CENTER, UP)
    rotation = viewmat[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-6, rtol=0)
    assert torch.det(rotation) > 0
    target = rotation @ CENTER + viewmat[:3, 3]
    torch.testing.assert_close(target[:2], torch.zeros(2), atol=1e-6, rtol=0)
    assert target[2] > 0
    assert (rotation @ UP)[1] < 0  # y points down in the picture
    assert abs((rotation @ UP)[0]) < 1e-6


def test_places_of_any_number_type_place_the_same_camera():
    want = orbit_camera(CENTER, UP, 3.0, 30.0, 20.0, 1.0, 64, 48, 50.0)
    up = torch.tensor([0, 0, 1])
    for center in (CENTER, CENTER.double(), CENTER.flip(0).numpy()[::-1], CENTER.tolist()):
        camera = orbit_camera(center, up, 3.0, 30.0, 20.0, 1.0, 64, 48, 50.0)
        torch.testing.assert_close(camera.viewmat, want.viewmat)
        viewmat = look_at(want.position.double(), center, up)
        assert viewmat.dtype == torch.float64
        torch.testing.assert_close(viewmat.float(), want.viewmat, atol=1e-6, rtol=0)
        assert yaw_pitch_of(camera, center, up) == pytest.approx((30, 20), abs=1e-3)
    coarse = orbit_camera(CENTER.half(), up.half(), 3.0, 30.0, 20.0, 1.0, 64, 48, 50.0).viewmat
    torch.testing.assert_close(coarse[:3, :3], want.viewmat[:3, :3])


def test_look_at_refuses_a_view_along_up_with_a_sentence():
    with pytest.raises(ValueError, match="not along its own up"):
        look_at(CENTER + UP, CENTER, UP)


@pytest.mark.parametrize("yaw", [-170.0, -45.0, 0.0, 90.0, 179.0])
@pytest.mark.parametrize("pitch", [-60.0, 0.0, 35.0, 88.0])
def test_an_orbit_camera_tells_back_its_yaw_pitch_and_distance(yaw, pitch):
    up = torch.tensor([0.2, -0.9, 0.3])
    camera = orbit_camera(CENTER, up, 2.0, yaw, pitch, 1.5, 640, 480, 50.0)
    assert yaw_pitch_of(camera, CENTER, up) == pytest.approx((yaw, pitch), abs=0.02)
    turned = orbit_camera(CENTER, up, 2.0, yaw + 20, pitch, 1.5, 640, 480, 50.0)
    around = torch.linalg.cross(camera.position - CENTER, turned.position - CENTER)
    assert around @ up > 0  # counterclockwise, seen from above
    assert float((camera.position - CENTER).norm()) == pytest.approx(3.0, abs=1e-4)
    torch.testing.assert_close(
        project(camera, CENTER), torch.tensor([320.0, 240.0]), atol=1e-2, rtol=0
    )


def test_the_field_of_view_spans_the_longer_side():
    camera = orbit_camera(CENTER, UP, 2.0, 0.0, 0.0, 1.0, 300, 400, 60.0)
    assert 2 * math.degrees(math.atan(200 / float(camera.K[1, 1]))) == pytest.approx(60.0, abs=1e-3)


def test_a_camera_straight_above_has_a_pitch_of_90_degrees():
    for up in torch.nn.functional.normalize(torch.randn(20, 3), dim=1):
        camera = Camera(torch.eye(4), torch.eye(3), 64, 48)
        camera.viewmat[:3, 3] = -(CENTER + 3 * up)
        assert yaw_pitch_of(camera, CENTER, up)[1] == pytest.approx(90, abs=0.1)


def test_pitch_beyond_the_poles_is_held_short_of_them():
    camera = orbit_camera(CENTER, UP, 2.0, 10.0, 500.0, 1.0, 64, 48, 50.0)
    assert yaw_pitch_of(camera, CENTER, UP)[1] == pytest.approx(89.0, abs=0.05)


@pytest.mark.parametrize("up", [*torch.eye(3), *-torch.eye(3)])
def test_any_axis_of_the_world_may_be_up(up):
    camera = orbit_camera(CENTER, up, 2.0, 30.0, 40.0, 1.0, 64, 48, 50.0)
    assert yaw_pitch_of(camera, CENTER, up) == pytest.approx((30.0, 40.0), abs=0.02)


@pytest.mark.parametrize(
    "fov, radius, distance",
    [
        (0.0, 2.0, 1.0),
        (180.0, 2.0, 1.0),
        (50.0, 2.0, 0.0),
        (50.0, 2.0, -1.0),
        (50.0, 0.0, 1.0),
        (50.0, -2.0, -1.0),
    ],
)
def test_an_impossible_orbit_is_a_value_error(fov, radius, distance):
    with pytest.raises(ValueError, match=r"field of view|positive"):
        orbit_camera(CENTER, UP, radius, 0.0, 0.0, distance, 64, 48, fov)


@pytest.mark.parametrize("sweep", [360.0, 100.0])
def test_world_frame_finds_up_center_and_radius_of_an_orbit(sweep):
    center, up, radius = world_frame(ring(sweep=sweep), torch.zeros(0, 3))
    assert float(up @ UP) > math.cos(math.radians(1))
    torch.testing.assert_close(center, CENTER, atol=2e-3, rtol=0)
    assert radius == pytest.approx(3.0, abs=2e-3)


def test_world_frame_moves_with_the_world():
    generator = torch.Generator().manual_seed(3)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    rotation = rotation * torch.det(rotation)
    motion = torch.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, torch.tensor([4.0, 5.0, -6.0])
    cameras = ring(sweep=140.0)
    moved = [Camera(c.viewmat @ torch.linalg.inv(motion), c.K, 64, 48) for c in cameras]
    points = CENTER + torch.randn(500, 3, generator=generator)
    center, up, radius = world_frame(cameras, points)
    center2, up2, radius2 = world_frame(moved, points @ rotation.T + motion[:3, 3])
    torch.testing.assert_close(up2, rotation @ up, atol=1e-4, rtol=0)
    torch.testing.assert_close(center2, rotation @ center + motion[:3, 3], atol=1e-2, rtol=0)
    assert radius2 == pytest.approx(radius, rel=1e-3)


@pytest.mark.parametrize("behind", [0, 300])
def test_cameras_that_look_outwards_orbit_what_they_see(behind):
    """Their axes meet behind them, at the photographer: no center to turn around."""
    cameras = []
    for k in range(6):
        angle = 0.25 * (k - 2.5)
        ahead = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
        cameras.append(Camera(look_at(0.2 * ahead, ahead * 2, UP), torch.eye(3), 64, 48))
    points = 0.5 * torch.randn(200 + behind, 3, generator=torch.Generator().manual_seed(0))
    points[:, 0] += 5
    points[200:, 0] -= 10
    center, _, radius = world_frame(cameras, points)
    assert float((center - torch.tensor([5.0, 0.0, 0.0])).norm()) < 0.5
    assert 4 < radius < 6


def test_one_camera_is_enough_for_a_frame():
    camera = ring()[0]
    center, up, radius = world_frame([camera], torch.zeros(0, 3))
    torch.testing.assert_close(
        center, camera.position + camera.camtoworld[:3, 2], atol=1e-3, rtol=0
    )
    assert radius == pytest.approx(1.0, abs=1e-3)
    assert float(up.norm()) == pytest.approx(1.0, abs=1e-5)


def test_a_frame_is_found_from_points_in_an_array_and_without_points():
    cameras, points = ring(), torch.randn(30, 3)
    for given, same in ((points.numpy(), points), (None, torch.zeros(0, 3))):
        center, up, radius = world_frame(cameras, given)
        want = world_frame(cameras, same)
        assert torch.equal(center, want[0]) and torch.equal(up, want[1]) and radius == want[2]


def test_cameras_side_by_side_orbit_the_middle_of_what_they_see():
    looks = [
        look_at(CENTER + torch.tensor([x, 0, 0]), CENTER + torch.tensor([x, 4.0, 0]), UP)
        for x in (-2.0, 0.0, 2.0)
    ]
    cameras = [Camera(viewmat, torch.eye(3), 64, 48) for viewmat in looks]
    points = (
        CENTER
        + torch.tensor([0.0, 5.0, 0.0])
        + 0.1 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    )
    beside = points + torch.tensor([9.0, 0.0, 0.0])  # more than 30 degrees off every axis
    for given in (points, torch.cat([points, beside, beside])):
        center, up, radius = world_frame(cameras, given)
        torch.testing.assert_close(center, CENTER + torch.tensor([0.0, 5.0, 0.0]), atol=0.1, rtol=0)
        assert radius == pytest.approx(math.hypot(2, 5), abs=0.1) and float(up @ UP) > 0.999
    far = points.repeat(60, 1) + torch.tensor([0.0, 4.0, 0.0])
    center, _, _ = world_frame(cameras, torch.cat([points.repeat(30, 1), far]))
    torch.testing.assert_close(center, CENTER + torch.tensor([0.0, 9.0, 0.0]), atol=0.1, rtol=0)
    center, _, _ = world_frame(cameras)  # as far ahead as the cameras are apart
    torch.testing.assert_close(center, CENTER + torch.tensor([0.0, 2.0, 0.0]), atol=0.1, rtol=0)


def test_small_rolls_of_cameras_that_hardly_turn_do_not_tip_the_world():
    cameras = []
    for degrees in (-2.0, 0.0, 2.0):
        yaw, roll = math.radians(degrees), math.radians(degrees / 2)
        ahead = torch.tensor([math.sin(yaw), math.cos(yaw), 0.0])
        up = math.cos(roll) * UP + math.sin(roll) * torch.linalg.cross(ahead, UP)
        cameras.append(Camera(look_at(CENTER, CENTER + ahead, up), torch.eye(3), 64, 48))
    assert float(world_frame(cameras)[1] @ UP) > math.cos(math.radians(0.5))


def test_a_few_cameras_far_off_do_not_move_the_orbit_away():
    far = [orbit_camera(CENTER, UP, 3.0, 40.0, 10.0, 9.0, 64, 48, 50.0)]
    assert world_frame(ring() + far, torch.zeros(0, 3))[2] == pytest.approx(3.0, abs=0.01)


def test_axes_that_meet_where_no_points_are_orbit_the_points():
    points = (
        CENTER
        + torch.tensor([0.0, 0.0, -1.5])
        + 0.1 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    )
    center, _, _ = world_frame(ring(), points)
    assert float((center - points.mean(0)).norm()) < 0.2


def test_cameras_whose_ups_cancel_out_still_have_an_up():
    position = CENTER + torch.tensor([3.0, 0.0, 0.0])
    views = [look_at(position, CENTER, sign * UP) for sign in (1.0, -1.0)]
    _, up, _ = world_frame([Camera(v, torch.eye(3), 64, 48) for v in views], torch.zeros(0, 3))
    assert abs(float(up @ UP)) == pytest.approx(1.0, abs=1e-5)


def test_a_camera_at_the_middle_of_the_points_still_has_a_radius():
    camera = Camera(
        look_at(CENTER, CENTER + torch.tensor([0.0, 1.0, 0.0]), UP), torch.eye(3), 64, 48
    )
    assert world_frame([camera], CENTER.expand(3, 3))[2] == 1.0


def test_a_scene_without_cameras_has_no_frame():
    with pytest.raises(ValueError, match="at least one camera"):
        world_frame([], torch.zeros(0, 3))


LENSES = {
    "SIMPLE_RADIAL": (Lens(640, 480, 500, 500, 322, 236, (-0.2,)), [500, 322, 236, -0.2]),
    "RADIAL": (Lens(640, 480, 500, 500, 320, 240, (0.1, -0.05)), [500, 320, 240, 0.1, -0.05]),
    "OPENCV": (
        Lens(640, 480, 500, 510, 320, 240, (-0.3, 0.1), (), (0.002, -0.003)),
        [500, 510, 320, 240, -0.3, 0.1, 0.002, -0.003],
    ),
    "FULL_OPENCV": (
        Lens(640, 480, 500, 510, 320, 240, (0.3, 0.1, 0.02), (0.5, 0.05, 0.01), (1e-3, 2e-3)),
        [500, 510, 320, 240, 0.3, 0.1, 1e-3, 2e-3, 0.02, 0.5, 0.05, 0.01],
    ),
    "SIMPLE_RADIAL_FISHEYE": (
        Lens(640, 480, 300, 300, 320, 240, (-0.05,), fisheye=True),
        [300, 320, 240, -0.05],
    ),
    "RADIAL_FISHEYE": (
        Lens(640, 480, 300, 300, 320, 240, (-0.05, 0.01), fisheye=True),
        [300, 320, 240, -0.05, 0.01],
    ),
    "OPENCV_FISHEYE": (
        Lens(640, 480, 300, 305, 320, 240, (-0.04, 0.01, -0.004, 0.001), fisheye=True),
        [300, 305, 320, 240, -0.04, 0.01, -0.004, 0.001],
    ),
}
COLMAP_SAYS = """
import json, sys, zlib
import pycolmap
models, points = json.load(sys.stdin)
print(json.dumps({
    name: [[float(v) for v in pycolmap.Camera(
        model=name, width=640, height=480, params=params).img_from_cam([x, y, 1.0])]
        for x, y in points]
    for name, params in models.items()
}))
"""


def test_every_lens_bends_as_colmap_says():
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (50, 2))
    question = json.dumps([{name: p for name, (_, p) in LENSES.items()}, points.tolist()])
    answer = subprocess.run(
        [sys.executable, "-c", COLMAP_SAYS], input=question, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    for name, expected in json.loads(answer.stdout.splitlines()[-1]).items():
        lens = LENSES[name][0]
        ours = lens.distort(points) * [lens.fx, lens.fy] + [lens.cx, lens.cy]
        np.testing.assert_allclose(ours, expected, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", LENSES)
def test_a_straightened_photo_shows_what_a_pinhole_sees_and_no_border(name):
    """A pattern drawn through the lens, straightened, against the pattern drawn directly."""
    lens = LENSES[name][0]

    def pattern(x, y):
        red = 128 + 90 * np.sin(9 * x) * np.cos(7 * y)
        return np.stack([red, 128 + 90 * np.sin(6 * x + 8 * y), 128 + 90 * np.cos(10 * y)], -1)

    # The photo: for each pixel the direction that the lens bends onto it, by Newton's method.
    v, u = np.mgrid[: lens.height, : lens.width] + 0.5
    goal = np.stack([(u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy], -1)
    xy = goal.copy()
    for _ in range(60):
        xy = xy + 0.7 * (goal - lens.distort(xy))
    photo = pattern(xy[..., 0], xy[..., 1]).round().astype(np.uint8)

    K, width, height = lens.pinhole()
    out = lens.straighten(photo, K, width, height)
    assert out.shape == (height, width, 3)
    v, u = np.mgrid[:height, :width] + 0.5
    truth = pattern((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1])
    error = np.abs(out - truth)
    assert error.mean() < 1.0
    assert np.percentile(error, 99.9) < 6.0
    assert K[0, 0] == pytest.approx(lens.fx, rel=3e-3)  # the focal length is kept


def test_shrinking_a_pinhole_scales_its_intrinsics_exactly():
    lens = Lens(1000, 600, 800, 810, 490, 310)
    K, width, height = lens.pinhole(max_side=333)
    assert (width, height) == (333, 200)
    sx, sy = 333 / 1000, 200 / 600
    np.testing.assert_allclose(K, [[800 * sx, 0, 490 * sx], [0, 810 * sy, 310 * sy], [0, 0, 1]])
    assert lens.pinhole(max_side=2000)[1:] == (1000, 600), "none is enlarged"
    assert Lens(1000, 2, 800, 800, 500, 1).pinhole(max_side=100)[1:] == (100, 1)


def test_a_lens_for_a_photo_of_another_size_scales_each_axis_by_itself():
    lens = Lens(1000, 600, 800, 810, 490, 310, (-0.1,)).for_size(335, 200)
    sx, sy = 335 / 1000, 200 / 600
    assert (lens.width, lens.height, lens.numerator) == (335, 200, (-0.1,))
    assert (lens.fx, lens.fy) == pytest.approx((800 * sx, 810 * sy), rel=1e-9)
    assert (lens.cx, lens.cy) == pytest.approx((490 * sx, 310 * sy), rel=1e-9)


def test_a_portrait_lens_is_a_landscape_lens_on_its_side_and_loses_nothing():
    K, width, height = Lens(640, 480, 500, 510, 322, 236, (-0.2,)).pinhole()
    other, *size = Lens(480, 640, 510, 500, 236, 322, (-0.2,)).pinhole()
    assert size == [height, width] and width > 660  # a barrel lens sees more than its size
    np.testing.assert_allclose(other[[1, 0, 2]][:, [1, 0, 2]], K)


def test_a_lens_that_sees_nearly_half_the_world_is_cut_to_one_and_a_half_times_its_size():
    assert Lens(640, 480, 200, 200, 320, 240, fisheye=True).pinhole()[1:] == (960, 720)


def test_a_sharp_edge_stays_black_and_white():
    photo = np.zeros((480, 640, 3), np.uint8)
    photo[:, :320] = 255
    K, width, height = (lens := Lens(640, 480, 500, 500, 320, 240, (-0.2,))).pinhole()
    row = lens.straighten(photo, K, width, height)[height // 2, :, 0].astype(int)
    assert (np.diff(row) <= 0).all() and (row[0], row[-1]) == (255, 0)
    assert np.abs(row + row[::-1] - 255).max() <= 1, "it stays in the middle"
    photo[:] = 255
    assert (lens.straighten(photo, K, width, height) == 255).all()


def test_a_lens_that_is_only_off_its_axis_bends_too():
    assert Lens(64, 48, 50, 50, 32, 24, tangential=(0.0, 0.01)).bends
    assert Lens(64, 48, 50, 50, 32, 24, denominator=(0.0, 0.1)).bends
    assert Lens(64, 48, 50, 50, 32, 24, fisheye=True).bends
    assert not Lens(64, 48, 50, 50, 32, 24, (0.0, 0.0), (0.0,)).bends


def test_the_distortion_of_a_lens_may_be_a_list_or_an_array():
    given = [-0.1, 0.02], np.array([0.0]), [0.001, 0.0]
    lens, same = (Lens(64, 48, 50, 50, 32, 24, *some) for some in (given, map(tuple, given)))
    assert lens == same and lens.pinhole()[1:] == same.pinhole()[1:]


def test_a_lens_for_a_photo_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="64 x 48 pixels does not fit a photo of 64 x 44"):
        Lens(64, 48, 50, 50, 32, 24).for_size(64, 44)


def test_a_lens_that_folds_the_picture_is_refused_or_cropped_before_the_fold():
    # r (1 - r^2) turns back at r = 0.577, inside this photo's corners.
    lens = Lens(640, 480, 500, 500, 320, 240, (-1.0,))
    K, width, height = lens.pinhole()
    corner = math.hypot(width / 2 / K[0, 0], height / 2 / K[1, 1])
    assert corner < 0.58
    K, width, height = Lens(640, 480, 500, 500, 320, 240, (-10.0,)).pinhole()
    assert 0.17 < math.hypot(width / 2 / K[0, 0], height / 2 / K[1, 1]) < 0.183
    with pytest.raises(ValueError, match="cannot be undone"):
        Lens(640, 480, 500, 500, 320, 240, (-100.0,)).pinhole()


@pytest.mark.parametrize(
    "bad",
    [
        {"fx": 0.0},
        {"fy": -1.0},
        {"cx": math.nan},
        {"tangential": (0, math.nan)},
        {"width": 0},
        {"height": 2**64},
    ],
)
def test_an_impossible_lens_is_a_value_error(bad):
    good = {"width": 64, "height": 48, "fx": 50.0, "fy": 50.0, "cx": 32.0, "cy": 24.0}
    with pytest.raises(ValueError):
        Lens(**{**good, **bad})
