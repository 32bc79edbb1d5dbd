"""The harness of the benchmarks: what is written is what was measured, and where."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from langsplat.codec import Autoencoder
from tests.benchmarks import __main__ as harness
from tests.benchmarks import scale, speed, synthetic, table
from tests.benchmarks.markdown import machine, section, update
from tests.benchmarks.rows import not_measured, row


def test_a_section_names_command_machine_figures_and_what_was_missed() -> None:
    rows = [
        row("speed", 30.0, "1/s", yardstick=10.0, bar=4),
        row("error", 0.001, "", bar=0.005, higher_is_better=False),
        not_measured("on a GPU", "no GPU here", bar=385),
    ]
    text = section("table", "Queries by table.\n\nMore.", "table.svg", rows, "cpu")
    assert text.startswith(f"## table: {machine('cpu')}\n") and "Queries by table." in text
    assert "More." not in text and "`python -m tests.benchmarks table --device cpu`" in text
    assert "| speed | 30 1/s | 10 | 3 | 4: **missed** |" in text
    assert "| error | 0.001 |  |  | 0.005: ok |" in text
    assert "| on a GPU | not measured: no GPU here |  |  | 385 |" in text
    assert "![table](table.svg)" in text


def test_a_new_run_replaces_its_own_section_only(tmp_path: Path) -> None:
    file = tmp_path / "docs" / "benchmarks.md"
    update(file, ["## a: cpu\n\nold\n", "## a: gpu\n\nkept\n"])
    file.write_text("# Mine\n\nBy hand.\n\n" + file.read_text().split("\n\n", 2)[2])
    update(file, ["## b: cpu\n\nadded\n", "## a: cpu\n\nnew\n"])
    assert file.read_text() == (
        "# Mine\n\nBy hand.\n\n## a: cpu\n\nnew\n\n## a: gpu\n\nkept\n\n## b: cpu\n\nadded\n"
    )


def test_every_name_has_a_module_and_unknown_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(harness.__file__).parent
    for name in harness.NAMES:
        assert (folder / f"{harness.MODULES.get(name, name)}.py").is_file(), name
    monkeypatch.setattr("sys.argv", ["benchmarks", "nonsense"])
    with pytest.raises(SystemExit):
        harness.main()
    assert "no benchmark nonsense: choose from rasterize" in capsys.readouterr().err


def test_a_capture_that_is_not_at_hand_is_a_row_and_not_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def skips(device: str) -> list[object]:
        pytest.skip("real capture x is not here")

    monkeypatch.setattr(speed, "run", lambda device: [row("fast", 1.0, "1/s")])
    monkeypatch.setattr(table, "run", skips)
    file = tmp_path / "b.md"
    monkeypatch.setattr("sys.argv", ["benchmarks", "table", "speed", "--markdown", str(file)])
    harness.main()
    text = file.read_text()
    assert "| table | not measured: real capture x is not here |" in text and "| fast |" in text


def test_the_benchmarked_query_is_the_naive_pipelines() -> None:
    """The quick way and LangSplat's own agree, so the ratio compares like with like."""
    scene = synthetic.scene(3000, "autoencoder")
    camera = scene.cameras[0].resized(96, 72)
    field = scene.language
    assert field is not None and isinstance(field.codec, Autoencoder)
    codes = field.codes.clone()
    codes[::2] = -codes[1, 0]  # else all levels score alike, and rounding chooses
    scene = replace(scene, language=replace(field, codes=codes))
    encoder = synthetic.AnyWords()
    meant = field.codec.decode(codes[1, 0])
    encoder.known["word 1"] = F.normalize(meant + encoder.encode_texts(["thing"])[0], dim=0)
    engine = speed.SceneQuery(scene, encoder)
    texts = encoder.encode_texts(["word 1", *speed.NEGATIVES])
    wanted = torch.from_numpy(speed.naive(scene, camera, texts))
    got = speed.answer(engine, "word 1", camera)
    assert 0.05 < float(wanted.float().mean()) < 0.95
    inside = (slice(3, -3), slice(3, -3))  # the papers' windows count zeros beyond the border
    assert float((got == wanted)[inside].float().mean()) > 0.98


def test_the_picture_of_growth_has_a_line_for_every_curve(tmp_path: Path) -> None:
    curves = {"render": [1.0, 10.0], "query": [0.5, 80.0]}
    scale.draw(tmp_path / "scale.svg", [("Gaussians", [10_000, 100_000], curves)] * 2)
    root = ElementTree.parse(tmp_path / "scale.svg").getroot()
    lines = root.findall(".//{*}polyline")
    assert len(lines) == 2 * (2 + 1), "and what linear growth would be"
    words = "".join(root.itertext())
    assert "query" in words and "100k" in words
