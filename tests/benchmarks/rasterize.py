"""How fast the rasterizer is: contributions per second, backward against forward, frame times.

A contribution is one (pixel, Gaussian) pair that is blended. The scene is gsplat's test garden:
scales from the nearest neighbours, isotropic, opacity 0.8, RGB, 648 x 420. Without it a synthetic
cloud of as many Gaussians is used instead, and the rows' names say so.
"""

import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from langsplat.progress import torch_threads
from langsplat.rasterize import RULES, lift, rasterize, sh_to_rgb
from langsplat.scene import Camera, Gaussians
from tests.benchmarks.rows import Row, cores_at_hand, exp_yardstick, row
from tests.benchmarks.synthetic import moved
from tests.conftest import DATA

CORES, TURNS = 2, 9


def garden() -> tuple[str, tuple[Tensor, ...], Tensor, Tensor, int, int]:
    """Name, (means, quats, scales, opacities, colors), viewmats, Ks, width, height."""
    path = DATA / "gsplat_test_garden" / "test_garden.npz"
    if path.exists():
        data = np.load(path)
        name, points, colors = "garden", data["means3d"], data["colors"] / 255
        views, Ks = torch.from_numpy(data["viewmats"]), torch.from_numpy(data["Ks"])
        width, height = int(data["width"]), int(data["height"])
    else:
        rng = np.random.default_rng(0)
        name, points, colors = "synthetic", rng.normal(size=(138_766, 3)), rng.random((138_766, 3))
        views, width, height = torch.eye(4)[None].clone(), 648, 420
        views[:, 2, 3] = 4
        Ks = torch.tensor([[[480.0, 0, 324], [0, 480, 210], [0, 0, 1]]])
    n = len(points)
    gaussians = (
        torch.from_numpy(points).float(),
        torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        neighbour_distance(points)[:, None].repeat(1, 3),
        torch.full((n,), 0.8),
        torch.from_numpy(colors).float(),
    )
    return name, gaussians, views.float(), Ks.float(), width, height


def neighbour_distance(points: np.ndarray) -> Tensor:
    """Root mean square distance to the three nearest neighbours, [N]."""
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(points).query(points, k=4)
    return torch.from_numpy(np.sqrt((distances[:, 1:] ** 2).mean(1))).float()


def contributions(gaussians: tuple[Tensor, ...], view: Tensor, K: Tensor, width: int, height: int):
    """How many (pixel, Gaussian) pairs a frame blends."""
    from numba import njit

    from langsplat import _rasterize_numba as backend

    *arrays, colors = (t.numpy() for t in gaussians)
    frame = backend._prepare(
        tuple(arrays), colors, view.double().numpy(), K.double().numpy(), width, height, RULES
    )
    alpha_max, stop, tile = RULES.alpha_max, RULES.stop, backend.TILE

    @njit
    def count(splats, starts, members, columns):
        total = 0
        for t in range(len(starts) - 1):
            x0, y0 = t % columns * tile, t // columns * tile
            for y in range(y0, min(y0 + tile, height)):
                for x in range(x0, min(x0 + tile, width)):
                    light = 1.0
                    for k in range(starts[t], starts[t + 1]):
                        mx, my, p, q, r, faint, reach = splats[members[k]][:7]
                        dx, dy = x + 0.5 - mx, y + 0.5 - my
                        s = (p * dx + q * dy) ** 2 + (r * dy) ** 2
                        if s > reach:
                            continue
                        after = light * (1 - min(alpha_max, 0.5 ** (s + faint)))
                        if after <= stop:
                            break
                        light = after
                        total += 1
        return total

    return count(frame.splats, frame.starts, frame.members, frame.columns)


def seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Median over runs, after one to warm up (and compile)."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def new_pages(work: Callable[[], object], repeats: int) -> float:
    """How many pages of memory a run needs from the system, after one to warm up."""

    def given() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    work()
    before = given()
    for _ in range(repeats):
        work()
    return (given() - before) / repeats


def seen(camera: Camera) -> tuple[Tensor, Tensor, int, int]:
    """A camera as `rasterize` takes it, moved to a view that was not drawn before."""
    camera = moved(camera)
    return camera.viewmat[None], camera.K[None], camera.width, camera.height


def run(device: str = "cpu") -> list[Row]:
    name, gaussians, views, Ks, width, height = garden()
    blended = contributions(gaussians, views[0], Ks[0], width, height)
    gaussians = tuple(t.to(device) for t in gaussians)
    camera = Camera(views[0], Ks[0], width, height).to(device)
    weights = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0)).to(device)

    def forward() -> None:
        with torch.no_grad():
            rasterize(*gaussians, *seen(camera))

    def both() -> None:
        leaves = [t.detach().requires_grad_() for t in gaussians]
        image, _ = rasterize(*leaves, *seen(camera))
        torch.autograd.grad(image, leaves, weights)

    # In turns: a machine that others use too is slower for seconds on end.
    turns = [
        (
            *(exp_yardstick(CORES), cores_at_hand(CORES)),
            *(seconds(forward, 9, device), seconds(both, 5, device)),
        )
        for _ in range(TURNS)
    ]
    yardstick, cores, frame, frame_and_back = np.median(turns, axis=0).tolist()
    size = f"{width}x{height}"
    rows = [
        row(
            f"{name} {size}: forward contributions",
            blended / frame,
            "1/s",
            yardstick=yardstick,
            bar=0.25,
        ),
        row(f"{name} {size}: forward", 1e3 * frame, "ms"),
        row(f"{name} {size}: cores at hand meanwhile", cores, ""),
        row(f"{name} {size}: pages of memory new to a frame", new_pages(forward, 25), ""),
        row(
            f"{name} {size}: forward + backward over forward",
            frame_and_back / frame,
            "x",
            bar=3,
            higher_is_better=False,
        ),
    ]
    return rows + smaller(device) + colors_of_harmonics(device)


def smaller(device: str) -> list[Row]:
    """A frame as training, the page and lifting see it: 30,000 Gaussians."""
    generator = torch.Generator().manual_seed(0)
    n = 30_000
    points = torch.randn(n, 3, generator=generator) * torch.tensor([2.0, 1.5, 1.5])
    means, quats = points, torch.randn(n, 4, generator=generator)
    scales = neighbour_distance(points.numpy())[:, None] * (0.5 + torch.rand(n, 3))
    opacities = 0.1 + 0.8 * torch.rand(n, generator=generator)
    sh = torch.rand(n, 1, 3, generator=generator)
    gaussians = Gaussians(means, quats, scales, opacities, sh).to(device)
    view = torch.eye(4)
    view[2, 3] = 4
    K = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    camera = Camera(view, K, 640, 480).to(device)
    small = camera.resized(336, 252)
    rows = []
    for what, at, channels in (("training", small, 3), ("page", camera, 3)):
        leaves = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities)
        colors = torch.rand(n, channels, generator=generator).to(device)

        def both(leaves=leaves, colors=colors, at=at) -> None:
            own = [t.detach().requires_grad_() for t in (*leaves, colors)]
            image, _ = rasterize(*own, *seen(at))
            torch.autograd.grad(image.sum(), own)

        def forward(leaves=leaves, colors=colors, at=at) -> None:
            with torch.no_grad():
                rasterize(*leaves, colors, *seen(at))

        label = f"30k Gaussians {at.width}x{at.height} ({what})"
        rows.append(row(f"{label}: forward", 1e3 * seconds(forward, 9, device), "ms"))
        rows.append(row(f"{label}: forward + backward", 1e3 * seconds(both, 9, device), "ms"))
    values = torch.rand(n, 192, generator=generator).to(device)

    def many() -> None:
        with torch.no_grad():
            rasterize(*leaves, values, *seen(camera))

    rows.append(row("30k Gaussians 640x480: 192 channels", 1e3 * seconds(many, 3, device), "ms"))
    picture = torch.rand(480, 640, 64, generator=generator).to(device)
    lifting = seconds(lambda: lift(gaussians, camera, picture), 3, device)
    rows.append(row("30k Gaussians 640x480: lift 64 channels", 1e3 * lifting, "ms"))
    return rows


def colors_of_harmonics(device: str) -> list[Row]:
    """Spherical harmonics of degree 3: of an official scene as it is drawn, of one in training."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for n, learned in ((1_000_000, False), (30_000, True)):
        sh = torch.randn(n, 16, 3, generator=generator).to(device).requires_grad_(learned)
        dirs, v_rgb = torch.randn(2, n, 3, generator=generator).to(device)

        def work(sh=sh, dirs=dirs, v_rgb=v_rgb, learned=learned) -> None:
            rgb = sh_to_rgb(sh, dirs)
            if learned:
                with torch_threads(1):  # as in training
                    torch.autograd.grad(rgb, sh, v_rgb)

        what = "forward + backward" if learned else "forward"
        label = f"colors of {n:,} Gaussians from harmonics: {what}"
        rows.append(row(label, 1e3 * seconds(work, 9, device), "ms"))
    return rows
