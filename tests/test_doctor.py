"""The command line: what `doctor` finds, that nothing stops it, and what a stopped command says."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from langsplat import BUNDLED_ENCODER, encoders
from langsplat import __main__ as command
from tests.conftest import ROOT


def doctor(cwd: Path, **environment: str) -> str:
    """What it prints in a process of its own, without a network."""
    code = (
        "import sys; from langsplat.__main__ import main; code = main(['doctor']); "
        "print([n for n in ('torch', 'numba', 'open_clip', 'pycolmap') if n in sys.modules], code)"
    )
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "no_proxy": "*", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PATH": "/usr/bin", "HOME": str(cwd), **closed, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0 and not result.stderr, result.stderr
    return result.stdout


def test_the_doctor_finds_weights_and_says_what_will_be_used(tmp_path):
    hub = tmp_path / "hub"
    for file in (
        "models--laion--CLIP-ViT-B-16-laion2B-s34B-b88K/snapshots/1/open_clip_model.safetensors",
        "models--jane--sam/snapshots/1/checkpoints/sam_vit_b_01ec64.pth",
    ):
        (hub / file).parent.mkdir(parents=True)
        (hub / file).write_bytes(b"x" * 3_000_000)
    (tmp_path / "ckpts").mkdir()
    (tmp_path / "ckpts/sam_vit_h_4b8939.pth").write_bytes(b"x" * 2_000_000)
    said = doctor(tmp_path, HF_HUB_CACHE=str(hub), OMP_NUM_THREADS="1")
    assert "laion/CLIP-ViT-B-16-laion2B-s34B-b88K (3 MB)" in said
    assert "open_clip:ViT-B-16/laion2b_s34b_b88k is ready" in said
    assert "sam_vit_b (3 MB, Hub's cache)" in said
    assert "sam_vit_h:ckpts/sam_vit_h_4b8939.pth (2 MB)" in said
    assert "http://127.0.0.1:9 cannot be reached" in said
    assert "Bundled scenes: desk, teatable, toyshelf" in said and "1 CPU threads" in said
    # Neither torch nor anything else that takes seconds to import.
    assert said.endswith("[] 0\n")


def test_the_doctor_does_not_try_a_network_that_was_switched_off(tmp_path):
    assert "HF_HUB_OFFLINE is set: only what is here" in doctor(tmp_path, HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    ("line", "cuda"),
    [("cuda: Optional[str] = '12.8'", "12.8"), ("cuda: Optional[str] = None", None)],
)
def test_the_cuda_that_torch_was_built_for_is_read_from_its_files(
    monkeypatch, tmp_path, line, cuda
):
    text = f"__version__ = '2.9.0'\ndebug = False\n{line}\ngit_version = '0f'\nhip = '6.4'\n"
    (tmp_path / "version.py").write_text(text)
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    assert command._torch_cuda() == cuda


def test_the_doctor_never_raises(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("not a folder")
    said = doctor(tmp_path, HF_HUB_CACHE=str(tmp_path / "file"), OMP_NUM_THREADS="many")
    assert "none in the Hub's cache" in said and "SAM weights" in said

    def broken(*args: object) -> None:
        raise RuntimeError("the disk is on fire")

    for name in ("_version", "_threads", "_hub_cache", "_network"):
        monkeypatch.setattr(command, name, broken)
    assert command.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.count("could not be checked (RuntimeError: the disk is on fire)") >= 7


def test_the_doctor_counts_on_the_bundled_encoder_only_where_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_network", lambda: "")
    assert command.main(["doctor"]) == 0 and "with the bundled enc" in capsys.readouterr().out
    monkeypatch.setattr(command, "BUNDLED_ENCODER", tmp_path)
    assert command.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "missing from" in said and "with an encoder named by --encoder" in said


def test_the_doctor_looks_where_the_encoders_look():
    from open_clip.pretrained import get_pretrained_cfg

    from langsplat.official import ENCODER

    said = command._bundled_encoder()
    size = sum((BUNDLED_ENCODER / file).stat().st_size for file in encoders.TOWER_FILES)
    assert said.startswith(f"{size / 1e6:.0f} MB")
    name, repo = command.PAPER_ENCODER
    assert name == ENCODER
    model, tag = name.removeprefix("open_clip:").split("/")
    assert get_pretrained_cfg(model, tag)["hf_hub"].strip("/") == repo


def test_a_gpu_is_used_only_with_all_that_it_needs(monkeypatch):
    monkeypatch.setattr(command, "_gpus", lambda: ["NVIDIA H200, 140 GiB"])
    monkeypatch.setattr(command, "_version", lambda package: "1.5.3")
    monkeypatch.setattr(command, "_torch_cuda", lambda: "13.2")
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvcc")
    assert command._rasterizer() == "gsplat 1.5.3 on NVIDIA H200, 140 GiB"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "nvcc, which is not on the PATH" in command._rasterizer()
    monkeypatch.setattr(command, "_version", {"numba": "1"}.get)
    assert "numba 1 on" in command._rasterizer() and "pip install gsplat" in command._rasterizer()
    monkeypatch.setattr(command, "_torch_cuda", lambda: None)
    assert "install a torch with CUDA" in command._rasterizer()
    monkeypatch.setattr(command, "_gpus", list)
    assert command._rasterizer().startswith("numba 1 on")


@pytest.mark.parametrize(
    ("line", "left", "says"),
    [
        ("build photos --out s", "capture.npz", "stopped; the same command goes on from here."),
        ("build photos --out s", "photos", "stopped."),
        ("build photos --out s", None, "stopped."),
        ("describe desk --out s", "of.txt", "stopped; the same command goes on from here."),
        ("describe desk --out s", None, "stopped."),
        ("export desk --out s", "capture.npz", "stopped."),
        ("eval desk labels", None, "stopped."),
    ],
)
def test_a_stopped_command_promises_to_go_on_only_where_it_does(
    tmp_path, monkeypatch, capsys, line, left, says
):
    def stop(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    if left is not None:
        (tmp_path / "s.build").mkdir()
        (tmp_path / "s.build" / left).touch()
    monkeypatch.setattr(command, f"_{line.split()[0]}", stop)
    assert command.main(line.split()) == 130
    assert capsys.readouterr().err == f"\nlangsplat: {says}\n"


@pytest.mark.parametrize(("drawn", "lead"), [(True, "\n"), (False, "")])
def test_an_error_begins_a_line_of_its_own_and_leaves_none_empty(monkeypatch, capsys, drawn, lead):
    def fail(args: object) -> int:
        if drawn:
            command._bar()("Train", 1, 4, "")
            capsys.readouterr()
        raise ValueError("No room.")

    monkeypatch.setattr(command, "_export", fail)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert command.main(["export", "desk", "--out", "s"]) == 1
    assert capsys.readouterr().err == f"{lead}langsplat: No room.\n"


def test_names_that_the_terminal_cannot_show_are_escaped(monkeypatch, tmp_path):
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    assert command.main(["build", str(tmp_path / "Küche"), "--out", str(tmp_path / "s")]) == 1
    assert b"K\\xfcche: give a folder" in shown.getvalue()


@pytest.mark.gpu
def test_the_doctor_sees_the_gpus_that_torch_sees():
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    assert [said.rsplit(",", 1)[0] for said in command._gpus()] == names


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    program = "import sys; from langsplat.__main__ import main; sys.exit(main(['doctor']))"
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_strangers_scene_names_no_file_to_open_as_its_encoder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.test_query import asked_scene

    monkeypatch.chdir(tmp_path)
    scene = asked_scene()
    assert scene.language is not None
    language = replace(scene.language, encoder="open_clip:ViT-B-16//etc/passwd")
    with pytest.raises(ValueError, match="a file on its author's machine"):
        command._engine("user/name", replace(scene, language=language))
