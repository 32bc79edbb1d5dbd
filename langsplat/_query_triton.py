"""Queries on a GPU: scores of pixels, in a few Triton kernels between two renders by gsplat.

A view of a scene with a codebook needs the length of each pixel's blended embedding. That is the
length of a blended row of numbers, 64 per level if there are 64 codewords (`roots`). The row itself
is not needed: the tensor cores sum it, tile by tile, and only its length is written. The table of a
scene with an autoencoder is looked up in a single pass over the pixels.

Triton comes with torch's CUDA builds. If TRITON_INTERPRET=1 is set before this is imported, the
kernels run on the CPU, slowly, for tests.

Letters: N Gaussians, H W pixels, L levels, V codewords, T texts, P negatives.
"""

import os

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from langsplat._rasterize_gsplat import Frame

VIEW_TILE = 8  # pixels along a side; the sums of more would not fit into registers
COLUMNS = 64  # of a row, summed at once for each level
_GROUP, _STAGES = 32, 3  # splats that are blended together, and how many groups are fetched ahead
_REGISTERS = 168  # per thread, so that three programs share a multiprocessor
_RUN = 256  # splats between two checks of whether a tile is done
_BLOCK = 1024  # pixels per program
_BOX = 16, 128  # the same for smoothing, rows and columns
_PRODUCTS = 4096  # per program that scores Gaussians
_COMPILED = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")


@triton.jit
def _exp2(x):
    """2^x, without special care for results below 1e-38, which would take as long again."""
    if _COMPILED:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.exp2(x)


@triton.jit
def _log2(x):
    """The base-2 logarithm of a number in (0, 1], by one instruction instead of a polynomial."""
    if _COMPILED:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.log2(x)


@triton.jit
def _split(x):
    """x as the sum of two half precision numbers, exact to 22 bits."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


# Compiled once, whatever the number of splats; by default once more for multiples of 16.
@triton.jit(do_not_specialize=["count"])
def _view_kernel(
    means2d,  # [N, 2]
    conics,  # [N, 3]
    opacities,  # [N]
    offsets,  # [tiles]
    members,  # [count]
    rows,  # [N, L, parts, COLUMNS] half
    plain,  # [N, 2, PLAIN] half: the high and the low part of P + 1 numbers for each level
    inverse,  # [L, H, W] out
    best,  # [L, H, W] out
    width,
    height,
    tile_columns,
    tiles,
    count,
    parts,
    support,
    alpha_min,
    alpha_max,
    stop,
    TILE: tl.constexpr,
    LEVELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NEGATIVES: tl.constexpr,
    PLAIN: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
    RUN: tl.constexpr,
):
    """1 / length of each pixel's blended row, 0 where too little is seen; and its best negative.

    The light left before and behind each splat is a product over the splats before it: with
    logarithms a sum, and that is one matrix product with a triangle of ones.
    """
    PIXELS: tl.constexpr = TILE * TILE
    tile = tl.program_id(0)
    lane = tl.arange(0, PIXELS)
    column = (tile % tile_columns) * TILE + lane % TILE
    row = (tile // tile_columns) * TILE + lane // TILE
    inside = (column < width) & (row < height)
    x, y = column + 0.5, row + 0.5
    first = tl.load(offsets + tile)
    end = tl.load(offsets + tile + 1, mask=tile + 1 < tiles, other=count)
    places = tl.arange(0, GROUP)
    behind = (places[:, None] < places[None, :]).to(tl.float16)
    upto = (places[:, None] <= places[None, :]).to(tl.float16)
    own = tl.arange(0, COLUMNS)
    other = tl.arange(0, PLAIN)
    sums = tl.zeros([PIXELS, PLAIN], tl.float32)
    square0 = tl.zeros([PIXELS], tl.float32)
    square1 = tl.zeros([PIXELS], tl.float32)
    square2 = tl.zeros([PIXELS], tl.float32)
    for part in range(parts):
        left = tl.where(inside, 1.0, 0.0)
        sums = tl.zeros([PIXELS, PLAIN], tl.float32)
        row0 = tl.zeros([PIXELS, COLUMNS], tl.float32)
        row1 = tl.zeros([PIXELS, COLUMNS], tl.float32)
        row2 = tl.zeros([PIXELS, COLUMNS], tl.float32)
        start = first
        while start < end:
            for at in tl.range(start, tl.minimum(end, start + RUN), GROUP, num_stages=STAGES):
                some = at + places < end
                g = tl.load(members + at + places, mask=some, other=0)
                mx = tl.load(means2d + 2 * g)
                my = tl.load(means2d + 2 * g + 1)
                a = tl.load(conics + 3 * g)
                b = tl.load(conics + 3 * g + 1)
                c = tl.load(conics + 3 * g + 2)
                opacity = tl.load(opacities + g, mask=some, other=0.0)
                wide = g.to(tl.int64)[:, None]
                value = rows + (wide * LEVELS * parts + part) * COLUMNS + own[None, :]
                value0 = tl.load(value)
                if LEVELS > 1:
                    value1 = tl.load(value + parts * COLUMNS)
                if LEVELS > 2:
                    value2 = tl.load(value + 2 * parts * COLUMNS)
                plain_high = tl.load(plain + wide * 2 * PLAIN + other[None, :])
                plain_low = tl.load(plain + (wide * 2 + 1) * PLAIN + other[None, :])
                dx = mx[None, :] - x[:, None]
                dy = my[None, :] - y[:, None]
                # Rounded as gsplat's kernel does, which draws the words: what is just too faint
                # for one should be for the other.
                along = tl.fma(dx, dx * a[None, :], dy * c[None, :] * dy)
                power = tl.fma(dy, dx * b[None, :], along * 0.5)
                alpha = tl.minimum(alpha_max, _exp2(power * -1.4426950216) * opacity[None, :])
                through = tl.where((power >= 0) & (alpha >= alpha_min), 1 - alpha, 1.0)
                high, low = _split(_log2(through))
                before = left[:, None] * _exp2(tl.dot(low, behind, tl.dot(high, behind)))
                after = left[:, None] * _exp2(tl.dot(low, upto, tl.dot(high, upto)))
                weight, rest = _split(tl.where(after > stop, before - after, 0.0))
                last = tl.sum(tl.where(places[None, :] == GROUP - 1, after, 0.0), axis=1)
                left = tl.where(last > stop, last, 0.0)
                row0 = tl.dot(rest, value0, tl.dot(weight, value0, row0))
                if LEVELS > 1:
                    row1 = tl.dot(rest, value1, tl.dot(weight, value1, row1))
                if LEVELS > 2:
                    row2 = tl.dot(rest, value2, tl.dot(weight, value2, row2))
                sums = tl.dot(rest, plain_high, tl.dot(weight, plain_high, sums))
                sums = tl.dot(weight, plain_low, sums)
            start += RUN
            if tl.max(left, axis=0) == 0:
                start = end
        square0 += tl.sum(row0 * row0, axis=1)
        square1 += tl.sum(row1 * row1, axis=1)
        square2 += tl.sum(row2 * row2, axis=1)
    pixel = row * width + column
    plane = width * height
    for level in tl.static_range(LEVELS):
        if level == 0:
            square = square0
        elif level == 1:
            square = square1
        else:
            square = square2
        begin = level * (NEGATIVES + 1)
        seen = tl.sum(tl.where(other[None, :] == begin + NEGATIVES, sums, 0.0), axis=1)
        negative = (other >= begin) & (other < begin + NEGATIVES)
        highest = tl.max(tl.where(negative[None, :], sums, float("-inf")), axis=1)
        over = tl.where(seen > support, 1 / tl.sqrt(tl.maximum(square, 1e-12)), 0.0)
        tl.store(inverse + level * plane + pixel, over, mask=inside)
        tl.store(best + level * plane + pixel, highest * over, mask=inside)


@triton.jit
def _score_kernel(
    rows,  # [L, N, KEPT] integer
    codes,  # [L, N, KEPT]
    per_codeword,  # [L, V, T]
    out,  # [N, L, T]
    count,
    codewords,
    texts,
    KEPT: tl.constexpr,
    TEXTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    level = tl.program_id(1)
    g = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    text = tl.arange(0, TEXTS)
    some, asked = g < count, text < texts
    total = tl.zeros([BLOCK, TEXTS], tl.float32)
    for kept in tl.static_range(KEPT):
        own = (level * count + g) * KEPT + kept
        row = tl.load(rows + own, mask=some, other=0).to(tl.int32) + level * codewords
        code = tl.load(codes + own, mask=some, other=0.0).to(tl.float32)
        value = per_codeword + row[:, None] * texts + text[None, :]
        total += code[:, None] * tl.load(value, mask=some[:, None] & asked[None, :], other=0.0)
    place = (g * tl.num_programs(1) + level)[:, None] * texts + text[None, :]
    tl.store(out + place, total, mask=some[:, None] & asked[None, :])


@triton.jit
def _relevancy_kernel(
    dots,  # [H W, L T of stride]
    inverse,  # [L, H W]
    best,  # [L, H W]
    out,  # [T, L, H W] out
    stride,
    pixels,
    texts,
    sharpness,
    BLOCK: tl.constexpr,
):
    level = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    some = pixel < pixels
    over = tl.load(inverse + level * pixels + pixel, mask=some, other=0.0)
    highest = tl.load(best + level * pixels + pixel, mask=some, other=0.0)
    own = dots + pixel.to(tl.int64) * stride + level * texts
    out += level * pixels
    for _ in range(texts):
        dot = tl.load(own, mask=some, other=0.0)
        found = tl.where(over > 0, tl.sigmoid(sharpness * (dot * over - highest)), 0.0)
        tl.store(out + pixel, found, mask=some)
        own += 1
        out += tl.num_programs(1) * pixels


@triton.jit
def _looked_up(corners, at, u, v, width):
    """Interpolated between the four corners of a cell."""
    near = tl.load(corners + at) * (1 - u) + tl.load(corners + at + 1) * u
    far = tl.load(corners + at + width) * (1 - u) + tl.load(corners + at + width + 1) * u
    return near * (1 - v) + far * v


@triton.jit
def _place_kernel(
    image,  # [H W, 3 L + L of stride]: latents, and what is seen of each level
    corners,  # [P, 6 (side + 1), side + 1]
    places,  # [L, H W, 2] out
    best,  # [L, H W] out
    stride,
    pixels,
    side,
    negatives,
    support,
    LEVELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where a latent is looked up, as langsplat.codec.DecodeTable, in cells; and its best negative.

    -1 where too little is seen.
    """
    level = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    some = pixel < pixels
    own = image + pixel * stride + 3 * level
    x = tl.load(own, mask=some, other=1.0)
    y = tl.load(own + 1, mask=some, other=0.0)
    z = tl.load(own + 2, mask=some, other=0.0)
    seen = tl.load(image + pixel * stride + 3 * LEVELS + level, mask=some, other=0.0)
    on_x = (tl.abs(x) >= tl.abs(y)) & (tl.abs(x) >= tl.abs(z))
    on_y = (on_x == 0) & (tl.abs(y) >= tl.abs(z))
    longest = tl.where(on_x, x, tl.where(on_y, y, z))
    half = 0.5 * side
    scale = half / tl.maximum(tl.abs(longest), 1e-12)
    # Off the border by a hair, as rounding could mix in the neighbour in the table.
    u = tl.minimum(tl.maximum(tl.where(on_x, y, x) * scale + half, 1e-3), side - 1e-3)
    v = tl.minimum(tl.maximum(tl.where(on_x | on_y, z, y) * scale + half, 1e-3), side - 1e-3)
    face = tl.where(on_x, 0, tl.where(on_y, 2, 4)) + (longest < 0).to(tl.int32)
    width = side + 1
    v += face * width
    column, row = tl.floor(u).to(tl.int32), tl.floor(v).to(tl.int32)
    at = row * width + column
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    for _ in range(negatives):
        highest = tl.maximum(highest, _looked_up(corners, at, u - column, v - row, width))
        corners += 6 * width * width
    plane = level * pixels + pixel
    tl.store(places + 2 * plane, tl.where(seen > support, u, -1.0), mask=some)
    tl.store(places + 2 * plane + 1, v, mask=some)
    tl.store(best + plane, highest, mask=some)


@triton.jit
def _placed_kernel(
    places,  # [count, 2]
    best,  # [count]
    corners,  # [T, 6 (side + 1), side + 1]
    out,  # [T, count] out
    count,
    side,
    texts,
    sharpness,
    BLOCK: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    some = pixel < count
    u = tl.load(places + 2 * pixel, mask=some, other=-1.0)
    v = tl.load(places + 2 * pixel + 1, mask=some, other=0.0)
    highest = tl.load(best + pixel, mask=some, other=0.0)
    seen, u = u >= 0, tl.maximum(u, 0.0)
    width = side + 1
    column, row = tl.floor(u).to(tl.int32), tl.floor(v).to(tl.int32)
    at = row * width + column
    for _ in range(texts):
        found = _looked_up(corners, at, u - column, v - row, width)
        score = tl.where(seen, tl.sigmoid(sharpness * (found - highest)), 0.0)
        tl.store(out + pixel, score, mask=some)
        corners += 6 * width * width
        out += count


@triton.jit
def _box_kernel(
    maps,  # [M, H, W]
    out,  # [M, H, W] out: the means of columns; or with ACROSS of rows, averaged with what is there
    height,
    width,
    half,
    ACROSS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    plane = tl.program_id(2).to(tl.int64) * height * width
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    inside = (row < height) & (column < width)
    here = plane + row * width + column
    along, length, step = row + 0 * column, height, width
    if ACROSS:
        along, length, step = column + 0 * row, width, 1
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for away in range(-half, half + 1):
        known = inside & (along + away >= 0) & (along + away < length)
        total += tl.load(maps + here + away * step, mask=known, other=0.0)
    reach = tl.minimum(along + half, length - 1) - tl.maximum(along - half, 0)
    mean = total / tl.maximum(reach + 1, 1)
    if ACROSS:
        mean = 0.5 * (tl.load(out + here, mask=inside, other=0.0) + mean)
    tl.store(out + here, mean, mask=inside)


def score(rows: Tensor, codes: Tensor, per_codeword: Tensor, *, half: bool = False) -> Tensor:
    """Blend values of codewords [L, V, T] by codes [L, N, K] -> [N, L, T]."""
    levels, count, kept = rows.shape
    codewords, texts = per_codeword.shape[1:]
    dtype = torch.float16 if half else torch.float32
    out = torch.empty(count, levels, texts, dtype=dtype, device=rows.device)
    wide = triton.next_power_of_2(texts)
    block = max(16, _PRODUCTS // wide)
    _score_kernel[(triton.cdiv(count, block), levels)](
        rows.contiguous(),
        codes.contiguous(),
        per_codeword.contiguous(),
        out,
        count,
        codewords,
        texts,
        KEPT=kept,
        TEXTS=wide,
        BLOCK=block,
    )
    return out


def roots(gram: Tensor) -> Tensor:
    """R [L, V, C] with gram [L, V, V] = R Rᵀ, so that blended weights W have |W S| = |W R|.

    C is V, rounded up to a multiple of COLUMNS. The columns are mixed at random, so that none is
    much longer than the others and rounding to half precision averages out.
    """
    values, vectors = torch.linalg.eigh(gram.double())
    root = F.pad(vectors * values.clamp_min(0).sqrt()[:, None], (0, -gram.shape[1] % COLUMNS))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(root.shape[2], root.shape[2], generator=generator, dtype=torch.float64)
    return (root @ torch.linalg.qr(noise)[0].to(root.device)).float()


def halves(values: Tensor) -> Tensor:
    """Values [N, D] as two half precision numbers each, [N, 2, D padded to a power of two]."""
    size = max(16, triton.next_power_of_2(values.shape[1]))
    values = F.pad(values, (0, size - values.shape[1]))
    high = values.half()
    return torch.stack([high, (values - high.float()).half()], dim=1)


def view(
    frame: Frame,
    rows: Tensor,  # [N, L, C] half: codes times `roots`
    plain: Tensor,  # [N, 2, D] half: `halves` of L (P + 1) numbers, P negatives and what is seen
    negatives: int,
    support: float,
    rules: tuple[float, ...],
) -> tuple[Tensor, Tensor]:
    """What the pixels of a frame, of one camera, need for any texts.

    Returns:
        1 / |W S| [L, H, W], 0 where not more than `support` is seen; and the best negative's
        cosine [L, H, W].
    """
    levels, wide = rows.shape[1:]
    inverse, best = torch.empty(2, levels, frame.height, frame.width, device=rows.device)
    tile_rows, tile_columns = frame.offsets.shape[1:]
    _view_kernel[(tile_rows * tile_columns,)](
        frame.means2d.contiguous(),
        frame.conics.contiguous(),
        frame.opacities.contiguous(),
        frame.offsets,
        frame.members,
        rows,
        plain,
        inverse,
        best,
        frame.width,
        frame.height,
        tile_columns,
        tile_rows * tile_columns,
        len(frame.members),
        wide // COLUMNS,
        support,
        *rules[3:],
        TILE=frame.tile,
        LEVELS=levels,
        COLUMNS=COLUMNS,
        NEGATIVES=negatives,
        PLAIN=plain.shape[2],
        GROUP=_GROUP,
        STAGES=_STAGES,
        RUN=_RUN,
        num_warps=4,
        maxnreg=_REGISTERS,
    )
    return inverse, best


def relevancy(dots: Tensor, inverse: Tensor, best: Tensor, sharpness: float, out: Tensor) -> None:
    """Write to `out` [T, L, H, W] the relevancy of texts from their dot products [H, W, L T].

    `inverse` and `best` are those of `view`.
    """
    texts, levels, height, width = out.shape
    _relevancy_kernel[(triton.cdiv(height * width, _BLOCK), levels)](
        dots,
        inverse,
        best,
        out,
        dots.stride(1),
        height * width,
        texts,
        sharpness,
        BLOCK=_BLOCK,
    )


def place(image: Tensor, corners: Tensor, levels: int, support: float) -> tuple[Tensor, Tensor]:
    """Where each pixel's latents are looked up, and its best negative.

    Args:
        image: [H, W, 3 L + L], latents and what is seen of each level.
        corners: [P, 6 (side + 1), side + 1], the negatives' cosines at the corners of a table.
    Returns:
        [L, H, W, 2] in cells, the first -1 where not more than `support` is seen; [L, H, W].
    """
    height, width = image.shape[:2]
    places = torch.empty(levels, height, width, 2, device=image.device)
    best = torch.empty(levels, height, width, device=image.device)
    _place_kernel[(triton.cdiv(height * width, _BLOCK), levels)](
        image,
        corners.contiguous(),
        places,
        best,
        image.stride(1),
        height * width,
        corners.shape[2] - 1,
        len(corners),
        support,
        LEVELS=levels,
        BLOCK=_BLOCK,
    )
    return places, best


def placed(
    places: Tensor, best: Tensor, corners: Tensor, sharpness: float, out: Tensor, text: int = 0
) -> None:
    """Write to `out` [T, L, H, W] the relevancy of T texts, from number `text` of `corners` on.

    corners [.., 6 (side + 1), side + 1] are texts' cosines at the corners of a table.
    """
    _placed_kernel[(triton.cdiv(best.numel(), _BLOCK),)](
        places,
        best,
        corners[text:].contiguous(),
        out,
        best.numel(),
        corners.shape[2] - 1,
        len(out),
        sharpness,
        BLOCK=_BLOCK,
    )


def half_smooth(maps: Tensor, half: int) -> None:
    """Average maps [M, H, W], in place, with the means of boxes that reach `half` pixels away."""
    count, height, width = maps.shape
    means, (rows, columns) = torch.empty_like(maps), _BOX
    grid = triton.cdiv(width, columns), triton.cdiv(height, rows), count
    size = {"ROWS": rows, "COLUMNS": columns}
    _box_kernel[grid](maps, means, height, width, half, ACROSS=False, **size)
    _box_kernel[grid](means, maps, height, width, half, ACROSS=True, **size)
