"""The nouns refuse what they cannot hold, and a scene on disk is what it was in memory."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from langsplat.codec import Autoencoder, AutoencoderConfig, Codebook, fit_autoencoder
from langsplat.progress import write_tensors
from langsplat.scene import (
    SCENE_FILE,
    Camera,
    Gaussians,
    LanguageField,
    Scene,
    load_scene,
    save_scene,
)
from tests.official_files import autoencoder_state


def small_scene(n: int = 5) -> Scene:
    generator = torch.Generator().manual_seed(0)
    gaussians = Gaussians(
        means=torch.randn(n, 3, generator=generator),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1),
        scales=torch.rand(n, 3, generator=generator) + 0.1,
        opacities=torch.rand(n, generator=generator),
        sh=torch.randn(n, 4, 3, generator=generator),
    )
    codewords = torch.nn.functional.normalize(torch.randn(3, 6, 8, generator=generator), dim=2)
    language = LanguageField(
        rows=torch.randint(0, 6, (3, n, 2), generator=generator),
        codes=torch.tensor([0.75, 0.25]).expand(3, n, 2),
        mass=torch.rand(3, n, generator=generator),
        codec=Codebook(codewords),
        encoder="bundled:00000000",
    )
    camera = Camera(
        torch.eye(4), torch.tensor([[50.0, 0, 16], [0, 50, 12], [0, 0, 1]]), 32, 24, "a"
    )
    return Scene(
        gaussians=gaussians,
        cameras=(camera, replace(camera, name="b")),
        up=torch.tensor([0.0, 1, 0]),
        center=torch.zeros(3),
        radius=2.0,
        language=language,
        name="small",
        provenance={"photos": 2, "examples": ["red cup"]},
    )


@pytest.mark.filterwarnings("error")
def test_a_camera_keeps_its_pose_when_its_array_is_written_again() -> None:
    pose, lens = np.eye(4, dtype=np.float32), np.eye(3, dtype=">f8")[::-1]
    cameras = []
    for step in range(3):
        pose[0, 3] = step
        cameras.append(Camera(pose, lens, 8, 6))
    assert [float(camera.viewmat[0, 3]) for camera in cameras] == [0, 1, 2]
    assert torch.equal(cameras[0].K, torch.eye(3).flip(0))
    pose.flags.writeable = False
    assert float(Camera(pose, lens, 8, 6).viewmat[0, 3]) == 2


def test_an_autoencoder_is_stored_with_the_scene(tmp_path: Path) -> None:
    """Latents mean something only together with the autoencoder that made them."""
    scene = small_scene()
    rows = torch.nn.functional.normalize(torch.eye(8) + 0.1, dim=1)
    config = AutoencoderConfig(encoder=(6, 3), decoder=(5,), rounds=1)
    codec, _ = fit_autoencoder(rows, config)
    n = len(scene.gaussians)
    latents = torch.nn.functional.normalize(torch.rand(3, n, 3), dim=2)
    field = LanguageField(None, latents, torch.ones(3, n), codec, "bundled:00000000")
    back = load_scene(save_scene(replace(scene, language=field), tmp_path / "s")).language
    assert back is not None and isinstance(back.codec, Autoencoder) and back.rows is None
    torch.testing.assert_close(back.codes.float(), latents, atol=1e-3, rtol=0)
    assert back.codec.tensors().keys() == codec.tensors().keys()
    assert torch.equal(back.codec.encode(rows), codec.encode(rows))


def test_a_saved_scene_is_read_back_as_it_was(tmp_path: Path) -> None:
    scene = small_scene()
    card = "# card of caf\udce9"  # as a path may be that is not UTF-8
    back = load_scene(save_scene(scene, tmp_path / "s", preview=b"jpg", card=card))
    assert torch.equal(back.gaussians.means, scene.gaussians.means)
    assert torch.equal(back.gaussians.scales, scene.gaussians.scales)
    for name in ("quats", "opacities", "sh"):
        have, want = getattr(back.gaussians, name), getattr(scene.gaussians, name)
        torch.testing.assert_close(have, want, atol=2e-3, rtol=1e-3)
    assert back.language is not None and scene.language is not None
    assert torch.equal(back.language.rows.long(), scene.language.rows)
    assert torch.equal(back.language.mass, scene.language.mass)
    assert torch.equal(back.language.codec.codewords, scene.language.codec.codewords)
    assert back.language.encoder == "bundled:00000000"
    assert [camera.name for camera in back.cameras] == ["a", "b"]
    assert torch.equal(back.cameras[1].K, scene.cameras[1].K)
    assert back.cameras[0].width == 32 and back.cameras[0].height == 24
    assert back.name == "small" and back.examples == ["red cup"] and back.radius == 2.0
    assert (tmp_path / "s" / "preview.jpg").read_bytes() == b"jpg"
    assert (tmp_path / "s" / "README.md").read_text(encoding="utf-8") == "# card of caf?"


@pytest.mark.parametrize(("size", "stored"), [(256, torch.uint8), (257, torch.int32)])
def test_the_last_codeword_of_a_codebook_is_stored_too(
    tmp_path: Path, size: int, stored: torch.dtype
) -> None:
    scene = small_scene()
    assert scene.language is not None and scene.language.rows is not None
    rows = scene.language.rows.clone()
    rows[:, 0, 0] = size - 1
    field = replace(scene.language, rows=rows, codec=Codebook(torch.ones(3, size, 8)))
    back = load_scene(save_scene(replace(scene, language=field), tmp_path / "s")).language
    assert back is not None and back.rows is not None
    assert back.rows.dtype == stored and torch.equal(back.rows.long(), rows)


@pytest.mark.parametrize(("start", "view"), [(1, 1), (2, 0), (-1, 0), ("1", 0), (None, 0)])
def test_a_scene_opens_at_the_view_it_names_if_there_is_one(start: object, view: int) -> None:
    assert replace(small_scene(), provenance={"start_view": start}).start_view == view


def test_a_scene_keeps_its_near_plane_and_its_parts_do_too(tmp_path: Path) -> None:
    scene = small_scene()
    scene = replace(scene, gaussians=replace(scene.gaussians, near=0.2))
    back = load_scene(save_scene(scene, tmp_path / "s")).gaussians
    assert back.near == back.to("cpu").near == back.select(torch.tensor([0])).near == 0.2
    for near in (0.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="near must be a positive length"):
            replace(back, near=near)


def test_the_language_of_some_gaussians_is_theirs() -> None:
    field = small_scene().language
    assert field is not None and field.rows is not None
    some = field.select(torch.tensor([True, False, False, True, True]))
    kept = torch.tensor([0, 3, 4])
    assert some.rows is not None and torch.equal(some.rows, field.rows[:, kept])
    assert torch.equal(some.mass, field.mass[:, kept]) and some.codes.shape == (3, 3, 2)
    latents = Autoencoder(autoencoder_state(latent=2, embedding=8))
    coded = replace(field, rows=None, codec=latents).select(kept)
    assert coded.rows is None and torch.equal(coded.codes, field.codes[:, kept])


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_a_saved_scene_is_as_open_to_others_as_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        folder = save_scene(small_scene(), tmp_path / "s", preview=b"", card="")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o666 & ~mask}


def test_an_empty_scene_is_saved_and_read(tmp_path: Path) -> None:
    scene = replace(small_scene(0), cameras=(), language=None)
    back = load_scene(save_scene(scene, tmp_path / "s"))
    assert len(back.gaussians) == 0 and back.cameras == () and back.language is None


def test_saving_again_replaces_the_scene_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    save_scene(small_scene(), tmp_path / "s", preview=b"old")
    save_scene(small_scene(3), tmp_path / "s")
    assert len(load_scene(tmp_path / "s").gaussians) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_numbers_of_other_kinds_and_quaternions_of_any_length_are_saved(tmp_path: Path) -> None:
    scene = small_scene()
    far = replace(scene.gaussians, quats=1e6 * scene.gaussians.quats, near=np.float32(0.25))
    odd = replace(scene, gaussians=far, radius=torch.tensor(2.0))
    back = load_scene(save_scene(odd, tmp_path / "s"))
    torch.testing.assert_close(back.gaussians.quats, scene.gaussians.quats, atol=1e-3, rtol=0)
    assert (back.radius, back.gaussians.near) == (2.0, 0.25)


def test_a_folder_with_other_files_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"):
        save_scene(small_scene(), tmp_path)
    with pytest.raises(ValueError, match=r"thesis\.tex is a file: choose a new folder"):
        save_scene(small_scene(), tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_folder_that_one_is_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a folder of its own"):
        save_scene(small_scene(), ".")
    assert list(Path.cwd().iterdir()) == []


def test_a_scene_whose_tensors_share_memory_is_saved(tmp_path: Path) -> None:
    scene = small_scene()
    scene = replace(scene, center=scene.gaussians.means[0])
    back = load_scene(save_scene(scene, tmp_path / "s"))
    assert torch.equal(back.center, scene.gaussians.means[0])


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    scene = replace(small_scene(), provenance={"not json": object()})
    with pytest.raises(ValueError, match="what JSON can hold"):
        save_scene(scene, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_scene_is_written_to_where_a_link_leads(tmp_path: Path) -> None:
    save_scene(small_scene(), tmp_path / "there" / "s")
    (tmp_path / "here").symlink_to(tmp_path / "there" / "s")
    save_scene(small_scene(3), tmp_path / "here")
    assert (tmp_path / "here").is_symlink()
    assert len(load_scene(tmp_path / "there" / "s").gaussians) == 3
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["s"]


def test_a_scene_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = save_scene(small_scene(), tmp_path / "s"), os.rename

    def refuse(old: Path, new: Path) -> None:
        if new == folder and (old / SCENE_FILE).stat().st_size != size:
            raise PermissionError(13, "Permission denied")
        rename(old, new)

    size = (folder / SCENE_FILE).stat().st_size
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError):
        save_scene(small_scene(3), folder)
    assert len(load_scene(folder).gaussians) == len(small_scene().gaussians)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"sh": torch.full((5, 1, 3), 7e4)}, "not finite"),  # half floats end at 65 504
        ({"means": torch.full((5, 3), torch.nan)}, "not finite"),
        ({"scales": torch.zeros(5, 3)}, "positive length"),
    ],
)
def test_a_scene_that_could_not_be_opened_again_replaces_none(
    tmp_path: Path, odd: dict[str, torch.Tensor], says: str
) -> None:
    scene = small_scene()
    save_scene(scene, tmp_path / "scene")
    spoilt = replace(scene, gaussians=replace(scene.gaussians, **odd))
    with pytest.raises(ValueError, match=rf"{says}.*official\.usable says which can be saved"):
        save_scene(spoilt, tmp_path / "scene")
    assert torch.equal(load_scene(tmp_path / "scene").gaussians.means, scene.gaussians.means)


def test_names_of_views_keep_all_but_what_controls(tmp_path: Path) -> None:
    scene = small_scene()
    name = "Screenshot at 3.15.20\u202fPM \u3000" + 240 * "x" + ".png"
    cameras = (replace(scene.cameras[0], name=f"{name}\x1b\n\u2028\u2029"), *scene.cameras[1:])
    save_scene(replace(scene, cameras=cameras), tmp_path / "scene")
    assert load_scene(tmp_path / "scene").cameras[0].name == name


def test_endless_names_are_cut(tmp_path: Path) -> None:
    scene = small_scene()
    cameras = (replace(scene.cameras[0], name=5000 * "x"),)
    save_scene(replace(scene, name=5000 * "y", cameras=cameras), tmp_path / "scene")
    back = load_scene(tmp_path / "scene")
    assert (back.name, back.cameras[0].name) == (200 * "y", 1000 * "x")


def test_a_strangers_examples_are_a_few_short_texts_that_can_be_sent() -> None:
    given = ["red\ud800 cup\x1b", 5, {"a": 1}, 1000 * "x", *1000 * ["mug"]]
    examples = replace(small_scene(), provenance={"examples": given}).examples
    assert examples == ["red cup", 200 * "x", *96 * ["mug"]]


def test_a_name_that_is_no_text_does_not_lose_the_scene(tmp_path: Path) -> None:
    folder = save_scene(replace(small_scene(), name="caf\udce9"), tmp_path / "s")
    assert load_scene(folder).name == "caf?"


def test_a_file_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    """So that a build that fills the disk ends with the message for any full disk."""
    with pytest.raises(OSError, match="nowhere"):
        write_tensors({"a": torch.zeros(1)}, tmp_path / "nowhere" / "file", {})


def test_a_truncated_scene_is_said_to_be_damaged(tmp_path: Path) -> None:
    file = save_scene(small_scene(), tmp_path / "s") / SCENE_FILE
    whole = file.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged or incomplete"):
            load_scene(tmp_path / "s")


@pytest.mark.parametrize("closed", ["is_dir", "is_file", "open"])
def test_a_scene_that_may_not_be_read_is_not_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """The folder around it, its own, or its file; simulated, because root may read anything."""
    save_scene(small_scene(), tmp_path / "s")

    def refuse(path: Path, *how: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, closed, refuse)
    with pytest.raises(ValueError, match=r"s cannot be read \(Permission denied\): check the perm"):
        load_scene(tmp_path / "s")


def test_an_open_scene_stays_as_it_was_when_its_file_is_overwritten(tmp_path: Path) -> None:
    """As by `cp` while the page shows it, which ended the page by a bus error."""
    file = save_scene(small_scene(), tmp_path / "s") / SCENE_FILE
    scene, given = load_scene(file), small_scene()
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert torch.equal(scene.gaussians.means, given.gaussians.means)
    assert scene.language is not None and given.language is not None
    assert torch.equal(scene.language.mass, given.language.mass)
    assert (scene.language.codes == given.language.codes).all()


def parts(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors, no longer mapped from the file, and the metadata of a scene's file."""
    with safe_open(file, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}
        return tensors, handle.metadata()


def rewrite(file: Path, **changes: str) -> None:
    tensors, metadata = parts(file)
    save_file(tensors, file, metadata=metadata | changes)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cameras", '["a", ', "Its cameras cannot be read.* again"),
        ("cameras", '["a"]', "Its cameras do not fit their names.* again"),
        ("provenance", "{1}", "Its provenance cannot be read.* again"),
        ("provenance", "[1]", "Its provenance is not a JSON object.* again"),
        ("radius", "wide", "Its radius cannot be read.* again"),
        ("radius", "inf", "radius must be a positive length"),
        ("radius", "nan", "radius must be a positive length"),
        ("radius", "0", "radius must be a positive length"),
        ("radius", "-1", "radius must be a positive length"),
        ("near", "", "Its near cannot be read.* again"),
        ("near", "-1", "near must be a positive length"),
        ("provenance", 100_000 * "[", "Its provenance cannot be read.* again"),
        ("codec", "telepathy", ".*telepathy"),
    ],
)
def test_what_is_no_tensor_and_damaged_is_named(
    tmp_path: Path, key: str, value: str, words: str
) -> None:
    file = save_scene(small_scene(), tmp_path / "s") / SCENE_FILE
    rewrite(file, **{key: value})
    with pytest.raises(ValueError, match=f"cannot be used. {words}"):
        load_scene(tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("cameras.sizes", lambda sizes: sizes[:, :1], "cameras do not fit their names and sizes"),
        ("cameras.viewmats", lambda viewmats: viewmats[:, 0], "viewmat"),
        ("language.rows", lambda rows: rows.float(), "rows must be whole numbers"),
        ("language.rows", lambda rows: rows.bool(), "rows must be whole numbers"),
        ("cameras.sizes", lambda sizes: sizes[0, 0], "or holds it in another form: build it again"),
    ],
)
def test_tensors_of_another_form_are_one_sentence(
    tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    file = save_scene(small_scene(), tmp_path / "s") / SCENE_FILE
    tensors, metadata = parts(file)
    save_file(tensors | {name: change(tensors[name]).contiguous()}, file, metadata=metadata)
    with pytest.raises(ValueError, match=words):
        load_scene(tmp_path / "s")


def test_a_folder_that_no_library_could_open_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"s\? is not a name in UTF-8: choose another folder"):
        save_scene(small_scene(), tmp_path / "s\udcff")


def test_a_newer_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    file = save_scene(small_scene(), tmp_path / "s") / SCENE_FILE
    rewrite(file, format_version="7")
    with pytest.raises(ValueError, match=r"format 7, newer than the 1 .* update"):
        load_scene(tmp_path / "s")
    rewrite(file, format_version="1.0")
    with pytest.raises(ValueError, match="does not say which version of the scene format"):
        load_scene(tmp_path / "s")


def test_what_a_scene_lacks_is_named_unless_it_can_do_without(tmp_path: Path) -> None:
    file = save_scene(small_scene(), tmp_path / "s") / SCENE_FILE
    tensors, metadata = parts(file)
    for name in ("up", "gaussians.sh", "cameras.Ks", "language.mass", "encoder"):
        fewer, words = ({k: v for k, v in of.items() if k != name} for of in (tensors, metadata))
        save_file(fewer, file, metadata=words)
        with pytest.raises(ValueError, match=f"lacks '{name}' or .*: build it again"):
            load_scene(file)
    for name in ("near", "name", "provenance"):  # which older programs did not write
        save_file(tensors, file, metadata={k: v for k, v in metadata.items() if k != name})
        load_scene(file)


def test_lengths_are_those_of_the_blended_codewords_however_many_are_done_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field = small_scene().language
    assert field is not None and field.rows is not None
    field.rows[0, 0] = 3  # the same codeword twice: its weights add up
    blended = torch.stack(
        [field.dense(k) @ field.codec.tensors()["codewords"][k] for k in (0, 1, 2)]
    )
    for at_once in (1 << 24, 8, 1):
        monkeypatch.setattr("langsplat.scene._PAIRS_AT_ONCE", at_once)
        torch.testing.assert_close(field.norms(), blended.norm(dim=2))


def test_other_safetensors_and_other_files_are_not_scenes(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / SCENE_FILE)
    with pytest.raises(ValueError, match="not a LangSplat scene"):
        load_scene(tmp_path)
    (tmp_path / SCENE_FILE).write_text("hello, this is not a tensor file at all")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        load_scene(tmp_path)
    with pytest.raises(ValueError, match="There is no scene"):
        load_scene(tmp_path / "nowhere")


def test_a_scene_without_an_up_is_refused() -> None:
    with pytest.raises(ValueError, match=r"up must not be zero: .*world_frame finds it"):
        replace(small_scene(), up=torch.zeros(3))


def test_values_that_are_not_finite_or_out_of_range_are_refused(tmp_path: Path) -> None:
    file = save_scene(small_scene(), tmp_path / "s") / SCENE_FILE
    tensors, metadata = parts(file)
    poisoned = tensors | {"gaussians.means": tensors["gaussians.means"] * float("nan")}
    save_file(poisoned, file, metadata=metadata)
    with pytest.raises(ValueError, match="not finite"):
        load_scene(tmp_path / "s")
    poisoned = tensors | {"language.rows": tensors["language.rows"] + 200}
    save_file(poisoned, file, metadata=metadata)
    with pytest.raises(ValueError, match="rows must lie"):
        load_scene(tmp_path / "s")
    poisoned = tensors | {"language.codes": tensors["language.codes"] - 2}
    save_file(poisoned, file, metadata=metadata)
    with pytest.raises(ValueError, match="must not be negative"):
        load_scene(tmp_path / "s")
    # With a few megabytes of these a query would need 400 GB, or minutes.
    poisoned = tensors | {"language.codec.codewords": torch.zeros(3, 4097, 8)}
    save_file(poisoned, file, metadata=metadata)
    with pytest.raises(ValueError, match="at most 4,096 codewords for each level, this one 4,097"):
        load_scene(tmp_path / "s")
    wide = {"language.rows": torch.uint8, "language.codes": torch.float16}
    shape = (*tensors["language.rows"].shape[:2], 65)
    poisoned = tensors | {name: torch.zeros(shape, dtype=kind) for name, kind in wide.items()}
    save_file(poisoned, file, metadata=metadata)
    with pytest.raises(ValueError, match="at most 64 codewords, these weigh 65"):
        load_scene(tmp_path / "s")


def test_the_file_holds_tensors_and_json_only(tmp_path: Path) -> None:
    file = save_scene(small_scene(), tmp_path / "s") / SCENE_FILE
    _, metadata = parts(file)
    assert metadata["format"] == "langsplat-scene"
    assert json.loads(metadata["cameras"]) == ["a", "b"]
    assert json.loads(metadata["provenance"])["photos"] == 2


def test_shapes_are_checked_in_the_words_of_the_field() -> None:
    scene = small_scene()
    with pytest.raises(ValueError, match=r"quats must be \[5, 4\] \(wxyz\).*got \[5, 3\]"):
        replace(scene.gaussians, quats=torch.zeros(5, 3))
    with pytest.raises(ValueError, match="means must be a torch tensor, got ndarray: convert it"):
        replace(scene.gaussians, means=np.zeros((5, 3)))
    with pytest.raises(ValueError, match="up must be a torch tensor, got tuple"):
        replace(scene, up=(0.0, 0.0, 1.0))  # type: ignore[arg-type]
    for bases in (0, 5, 25):
        with pytest.raises(ValueError, match=f"bases, got {bases}"):
            replace(scene.gaussians, sh=torch.zeros(5, bases, 3))
    for size in ({"width": 0}, {"height": 0}):
        with pytest.raises(ValueError, match="pixels"):
            replace(scene.cameras[0], **size)
    with pytest.raises(ValueError, match="pixels"):
        replace(scene.cameras[0], width=100_000, height=100_000)
    replace(scene.cameras[0], width=8192, height=6144)  # as phones take them
    with pytest.raises(ValueError, match="describes 5 Gaussians but the scene has 4"):
        replace(scene, gaussians=scene.gaussians.select(torch.arange(4)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codes": torch.ones(4, 5, 2), "mass": torch.ones(4, 5)}, "1 to 3 levels, got 4"),
        ({"mass": torch.ones(3, 4)}, r"mass must be \[3, 5\] like codes"),
        ({"rows": None}, "need rows, the codewords they weigh"),
        ({"rows": torch.zeros(3, 5, 1).long()}, r"codes must be \[3, 5, 1\] like rows"),
        ({"codec": Codebook(torch.ones(2, 6, 8))}, r"rows must be \[2, \*, \*\]"),
        ({"codec": Autoencoder(autoencoder_state(latent=2, embedding=8))}, "give rows=None with"),
        (
            {"codec": Autoencoder(autoencoder_state(latent=3, embedding=8)), "rows": None},
            "have 2 numbers but the autoencoder's latent has 3",
        ),
        ({"rows": torch.full((3, 5, 2), -1)}, r"rows must lie in \[0, 6\), got -1 to -1"),
        ({"rows": torch.full((3, 5, 2), 6)}, r"rows must lie in \[0, 6\), got 6 to 6"),
    ],
)
def test_a_language_field_whose_parts_do_not_fit_is_refused(change: dict, words: str) -> None:
    field = small_scene().language
    assert field is not None
    with pytest.raises(ValueError, match=words):
        replace(field, **change)
    replace(field, rows=torch.zeros(3, 5, 64).long(), codes=torch.ones(3, 5, 64))  # the most


def test_a_camera_can_be_made_of_arrays_and_lists() -> None:
    K = [[50.0, 0, 20], [0, 50, 15], [0, 0, 1]]
    camera = Camera(np.eye(4), K, 40, 30)  # type: ignore[arg-type]
    assert camera.viewmat.dtype == camera.K.dtype == torch.float32
    assert camera.position.tolist() == [0, 0, 0] and camera.K.tolist() == K
    whole = Camera(torch.eye(4).double(), torch.tensor(K).long(), *np.array([40, 30]))
    assert whole.viewmat.dtype == torch.float32 and whole.resized(20).K[0, 0] == 25
    assert json.dumps([whole.width, whole.height]) == "[40, 30]"
    for size, words in (({"width": 40.5}, "40.5 and 30"), ({"height": 0.5}, "40 and 0.5")):
        with pytest.raises(ValueError, match=f"whole numbers, got {words}"):
            replace(camera, **size)  # type: ignore[arg-type]


def test_a_resized_camera_sees_the_same_directions() -> None:
    camera = small_scene().cameras[0]
    small = camera.resized(16)
    assert (small.width, small.height) == (16, 12)
    assert [camera.resized(width).height for width in (17, 15, 1)] == [13, 11, 1], "rounded"
    ray = torch.linalg.inv(camera.K) @ torch.tensor([20.0, 6.0, 1.0])
    assert torch.allclose(ray, torch.linalg.inv(small.K) @ torch.tensor([10.0, 3.0, 1.0]))
    tall = camera.resized(16, 48)
    assert torch.allclose(ray, torch.linalg.inv(tall.K) @ torch.tensor([10.0, 12.0, 1.0]))
    assert replace(camera, width=320, height=4).resized(16).height == 1


def test_camtoworld_inverts_the_view() -> None:
    angle = torch.tensor(0.3)
    viewmat = torch.eye(4)
    viewmat[0, 0] = viewmat[2, 2] = angle.cos()
    viewmat[0, 2], viewmat[2, 0] = angle.sin(), -angle.sin()
    viewmat[:3, 3] = torch.tensor([1.0, 2, 3])
    camera = replace(small_scene().cameras[0], viewmat=viewmat)
    torch.testing.assert_close(camera.camtoworld @ viewmat, torch.eye(4))
    torch.testing.assert_close(viewmat[:3, :3] @ camera.position + viewmat[:3, 3], torch.zeros(3))
