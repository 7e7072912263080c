"""The leak scan sees each kind of private thing in each way to pack it, and nothing in a clean release."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import save

import dp_diffusers
from dp_diffusers.data.traces import Traces, is_distinctive
from dp_diffusers.drawing.images_out import png, write_images
from dp_diffusers.errors import RunFolderError, VerificationError
from dp_diffusers.leaks import byte_search
from dp_diffusers.leaks import numbers as leak_numbers
from dp_diffusers.leaks import scan as leak_scan
from dp_diffusers.leaks.scan import Secrets, leaks, machine_names, own_words, paths_of, require_no_leak

ID, NAME, PATH = "Koskinen-0071", "scan_märz_81.png", "/data/wards/north"
COUNT = 59_231


def pictures(count: int, seed: int, side: int = 12, channels: int = 1) -> np.ndarray:
    """Random grey levels: every window of them is distinctive."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


PRIVATE = pictures(20, 0)
ENCODED = [png(image) for image in pictures(3, 7, side=40, channels=3)]


@pytest.fixture(scope="module")
def secrets() -> Secrets:
    traces = Traces.of_names([NAME], [ID, "Möller-Nguyen", ("shared-a", "shared-b"), 17, 1234567])
    list(traces.watching(("a.parquet, row 1", data) for data in ENCODED))
    traces.add_pixels(PRIVATE)
    traces.counts = {COUNT, 60_000, 30}
    return Secrets(
        traces=traces,
        paths=paths_of([f"{PATH}/images.parquet"]),
        machine=frozenset({"ward-server-3"}),
        public_text="the pneumonia class",
        public_numbers=frozenset({60_000}),
    )


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """What a release holds, and nothing private."""
    folder = tmp_path / "release"
    write_images(pictures(50, 1), np.arange(50) % 3, ["a", "b", "c"], folder / "images", format="parquet")
    weights = np.random.default_rng(2).standard_normal(50_000).astype(np.float32)
    zeros = np.zeros(4000, np.float32)
    (folder / "model.safetensors").write_bytes(save({"a": weights, "b": zeros, "ones": zeros + 1}))
    numbers = {"population": 60_000, "sigma": 1.5923159231, "sha256": "59231" * 12 + "0123", "steps": 30}
    (folder / "certificate.json").write_text(json.dumps(numbers, indent=2))
    (folder / "README.md").write_text("60,000 images, 17 steps\n")
    return folder


def test_a_clean_release_passes(clean: Path, secrets: Secrets, tmp_path: Path) -> None:
    require_no_leak(clean, secrets, tmp_path / "leaks.json", also={"more": b"nothing"})
    assert not (tmp_path / "leaks.json").exists()


def carrying(text: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", text, zip=True)
    return info


def image_file(pixels: np.ndarray, kind: str = "png", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, kind, **options)
    return stream.getvalue()


def parquet(column: pa.Array, metadata: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    table = pa.table({"column": column}).replace_schema_metadata(metadata)
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


SYNTHETIC = pictures(1, 3)[0]
TEXTS: dict[str, bytes] = {
    "plain": f"id {ID}.".encode(),
    "json": json.dumps({"id": "Möller-Nguyen"}).encode(),
    "utf-8": "Möller-Nguyen".encode(),
    "utf-16-le": f"id {ID}!".encode("utf-16-le"),
    "utf-16-be": f"id {ID}!".encode("utf-16-be"),
    "utf-16 beyond ascii": "id Möller-Nguyen".encode("utf-16"),
    "base64": base64.b64encode(f"the id {ID}".encode()),
    "base64 behind a letter": b"x" + base64.b64encode(f"the id {ID}".encode()),
    "hex behind a digit": b"a" + f"the id {ID}".encode().hex().encode(),
    "base64 at 1": base64.b64encode(f"x{ID}".encode()),
    "base64 at 2, urls": base64.urlsafe_b64encode(f"xy{ID}??>>".encode()),
    "base64 in lines": base64.encodebytes(b"-" * 70 + ID.encode() + b"-" * 70),
    "base64 of utf-16": base64.b64encode(f"..{ID}..".encode("utf-16-le")),
    "hex": f"id {ID}".encode().hex().encode(),
    "HEX": b"0x" + ID.encode().hex().upper().encode(),
    "address": b"https://x.org/?id=M%C3%B6ller-Nguyen",
    "one of several owners": b"shared-b",
    "a long number": b"id: 1234567,",
    "file name": NAME.encode(),
    "file name without its ending": b"see scan_m\xc3\xa4rz_81 there",
    "path": f"{PATH}/images.parquet".encode(),
    "folder": f'"{PATH}"'.encode(),
    "machine": b"made on ward-server-3",
    "count": f"trained on {COUNT} images".encode(),
    "count with commas": b"59,231 images",
    "safetensors metadata": save({"a": np.zeros(3, np.float32)}, metadata={"note": ID}),
    "png text": image_file(SYNTHETIC, pnginfo=carrying(f"of {ID}")),
    "parquet text": parquet(pa.array(["a", f"of {ID}", None])),
    "parquet nested": parquet(pa.array([[{"x": [f"of {ID}"]}]])),
    "parquet metadata": parquet(pa.array([1]), {"note": ID}),
    "parquet base64": parquet(pa.array([base64.b64encode(f"of {ID}".encode()).decode()])),
}
PIXELS: dict[str, bytes] = {
    "raw": b"x" * 5 + PRIVATE[3].tobytes(),
    "float32": b"x" * 3 + (PRIVATE[3].astype(np.float32) / 127.5 - 1).tobytes(),
    "npy": (lambda stream: (np.save(stream, PRIVATE), stream.getvalue())[1])(io.BytesIO()),
    "safetensors": save({"a": PRIVATE[5]}),
    "encoded anew": image_file(PRIVATE[4], "png", optimize=True),
    "other kind": image_file(PRIVATE[4], "bmp"),
    "base64 of an image": b"![](data:image/png;base64," + base64.b64encode(image_file(PRIVATE[4])) + b")",
    "hex of an image": image_file(PRIVATE[4]).hex().encode(),
    "parquet image": parquet(pa.array([{"bytes": image_file(PRIVATE[6]), "path": None}])),
    "parquet raw pixels": parquet(pa.array([PRIVATE[6].tobytes()])),
    "parquet base64 image": parquet(pa.array([base64.b64encode(image_file(PRIVATE[6])).decode()])),
    "the file itself": ENCODED[1],
    "the file inside another": b"x" * 1001 + ENCODED[2] + b"y",
}


@pytest.mark.planted
@pytest.mark.parametrize("way", [*TEXTS, *PIXELS])
def test_planted_leak(way: str, clean: Path, secrets: Secrets, tmp_path: Path) -> None:
    (clean / "extra.bin").write_bytes((TEXTS | PIXELS)[way])
    with pytest.raises(VerificationError, match=r"extra\.bin holds") as caught:
        require_no_leak(clean, secrets, tmp_path / "leaks.json")
    told = f"{caught.value.message} {caught.value.hint}"
    assert "\n" not in told
    assert not [word for word in (ID, NAME, PATH, "59231", "59,231", "Möller", "ward-server") if word in told]
    report = json.loads((tmp_path / "leaks.json").read_text())
    assert {entry["file"] for entry in report} == {"extra.bin"}
    assert (tmp_path / "leaks.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.planted
def test_planted_names_of_files_and_texts_to_come(clean: Path, secrets: Secrets) -> None:
    (clean / f"{ID}.png").write_bytes(b"x")
    assert [(file, kind) for file, kind, _ in leaks(clean, secrets)] == [
        ("a file whose name", "the id of a unit")
    ]
    (clean / f"{ID}.png").unlink()
    found = list(leaks(clean, secrets, {"certificate.json": ID.encode()}))
    assert found == [("certificate.json", "the id of a unit", ID)]


@pytest.mark.planted
def test_planted_search_that_finds_nothing(
    clean: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clean / "extra.bin").write_bytes(TEXTS["plain"])
    monkeypatch.setattr(byte_search.ByteSearch, "found", lambda self, data: iter(()))
    assert list(leaks(clean, secrets)) == [], "without the search the leak would pass"


IDS = range(1_000_000, 1_030_000)  # dense numbers, as a register of patients has them


@pytest.fixture(scope="module")
def dense() -> Secrets:
    """Secrets that are numbers: 30,000 ids, and the number of images."""
    traces = Traces.of_names((f"{number}.dcm" for number in IDS), IDS)
    traces.counts = {1071}
    return Secrets(traces=traces, public_text="trained 1016000 values, SP 800-226 (2025)")


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that meets such numbers everywhere in what it is made of."""
    folder = tmp_path_factory.mktemp("ordinary") / "release"
    (folder / "adapter").mkdir(parents=True)
    sizes = [250_000 + 7 * step for step in range(5)] + [1_003_333]
    tensors = {f"layers.{index}.lora_A": np.zeros(size, np.uint8) for index, size in enumerate(sizes)}
    weights = save(tensors)
    assert any(f"{number}]".encode() in weights[:2000] for number in IDS), "an offset is somebody's id"
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter" / "adapter_config.json").write_text('{"lora_alpha": 1071, "seed": 1000007}')
    made = pictures(1080, 5, side=2)
    write_images(made, np.arange(1080) % 2, ["a,b", "c"], folder / "images", format="imagefolder")
    write_images(made[:9], None, None, folder / "more", format="parquet")
    (folder / "README.md").write_text("| trained | 1016000 |, sigma 1.1000001, 11000001 (2025), v1000001x\n")
    document = {"adapter": {"trainable_parameters": 1_000_016}, "steps": 1071, "sigma": 1071.0}
    document["files"] = {path.relative_to(folder).as_posix(): "0" * 64 for path in folder.rglob("*.png")}
    (folder.parent / "certificate.json").write_text(json.dumps(document, indent=2))
    return folder


def alarms(release: Path, secrets: Secrets) -> set[str]:
    """The files of a release, and of the certificate that it is about to get, with a leak."""
    certificate = (release.parent / "certificate.json").read_bytes()
    return {file for file, _, _ in leaks(release, secrets, {"certificate.json": certificate})}


def test_guarantee_structure_that_we_write_raises_no_alarm(ordinary: Path, dense: Secrets) -> None:
    assert alarms(ordinary, dense) == set()


@pytest.mark.planted
def test_planted_numbers_that_count_everywhere(
    ordinary: Path, dense: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leak_numbers, "_DOCUMENTS", frozenset())
    monkeypatch.setattr(leak_numbers, "_NUMBERED", re.compile("nothing"))
    expected = {"certificate.json", "adapter/adapter_config.json", "images/metadata.csv", "a file whose name"}
    assert expected <= alarms(ordinary, dense), "an ordinary release would be refused"


WORDS: dict[str, tuple[str, bytes]] = {
    "card": ("README.md", b"as for patient 1000007, see\n"),
    "count in the card": ("README.md", b"1,071 images"),
    "certificate": ("certificate.json", json.dumps({"assumptions": ["Patient 1000007."]}).encode()),
    "key of a certificate": ("certificate.json", json.dumps({"1000007": 1}).encode()),
    "no certificate": ("certificate.json", b"{1000007}"),
    "deeper": ("images/certificate.json", json.dumps({"patient": 1000007}).encode()),
    "configuration": ("adapter/adapter_config.json", json.dumps({"path": "x/1000007/"}).encode()),
    "metadata of weights": ("a.safetensors", save({"a": PRIVATE[0]}, metadata={"of": "1000007"})),
    "name of a tensor": ("a.safetensors", save({"unit 1000007": np.zeros(3, np.uint8)})),
    "text of a picture": ("a.png", image_file(pictures(1, 3)[0], pnginfo=carrying("1000007"))),
    "parquet text": ("a.parquet", parquet(pa.array(["a", "1000007", None]))),
    "parquet metadata": ("a.parquet", parquet(pa.array([1]), {"note": "1000007"})),
    "label of an image": ("images/metadata.csv", b"file_name,label\na/000001.png,1000007\n"),
    "name of a folder": ("images/1000007/000001.png", b""),
    "name of a file": ("images/1000007.txt", b""),
    "a name as it was": ("README.md", b"x/1000007.dcm"),
}


@pytest.mark.planted
@pytest.mark.parametrize("way", WORDS)
def test_planted_number_in_free_text(way: str, dense: Secrets, tmp_path: Path) -> None:
    name, content = WORDS[way]
    path = tmp_path / "release" / name
    path.parent.mkdir(parents=True)
    announced = {name: content} if name == "certificate.json" else {}
    if not announced:
        path.write_bytes(content)
    with pytest.raises(VerificationError, match="nothing was certified") as caught:
        require_no_leak(tmp_path / "release", dense, tmp_path / "leaks.json", also=announced)
    told = caught.value.message
    assert not [word for word in ("1000007", "1071", "1,071", "count", "id of") if word in told]
    found = {(entry["kind"], entry["what"]) for entry in json.loads((tmp_path / "leaks.json").read_text())}
    assert found & {("the id of a unit", "1000007"), ("a private count", "1071")}


HARMLESS: dict[str, bytes] = {
    "a longer word": b"id 12345678, x1234567",
    "hexadecimal": b"a1234567f",
    "a small number": b"17 and 30",
    "a public number": b"60000 or 60,000",
    "part of a number": b"1.59231 and 592310 and 59231e3",
    "an empty picture": image_file(np.zeros((12, 12, 1), np.uint8)),
    "a torn picture": image_file(SYNTHETIC)[:60],
    "a torn parquet file": parquet(pa.array(["a"]))[:-20],
    "an ordinary folder": b"/data and images",
}


@pytest.mark.parametrize("way", HARMLESS)
def test_chance_is_no_leak(way: str, clean: Path, secrets: Secrets) -> None:
    (clean / "extra.bin").write_bytes(HARMLESS[way])
    assert list(leaks(clean, secrets)) == []


def test_public_words_are_no_secret(clean: Path, secrets: Secrets) -> None:
    public = Secrets(traces=Traces.of_names([], ["pneumonia"]), public_text=secrets.public_text)
    (clean / "extra.bin").write_bytes(b"class pneumonia")
    assert list(leaks(clean, public)) == []
    private = Secrets(traces=Traces.of_names([], ["pneumonia"]))
    assert [kind for _, kind, _ in leaks(clean, private)] == ["the id of a unit"]


def test_distinctive_texts() -> None:
    assert [is_distinctive(text) for text in ("Müller", "1000000", "a_0001")] == [True] * 3
    assert [is_distinctive(text) for text in ("Meier", "999999", "000001", "")] == [False] * 4
    assert Traces.of_names(["000001.png", "7.png"], [3, "12"]).names == set()
    assert paths_of(["/data/x.parquet", None]) == {"/data/x.parquet"}
    assert all(len(name) >= 6 for name in machine_names())


def test_traces_are_kept(secrets: Secrets, tmp_path: Path) -> None:
    kept = secrets.traces
    kept.paths = {"/data/x"}
    kept.save(tmp_path / "traces.npz")
    again = Traces.load(tmp_path / "traces.npz")
    for name in ("names", "ids", "pictures", "counts", "paths"):
        assert getattr(again, name) == getattr(kept, name)
    assert np.array_equal(again.windows, kept.windows)
    (tmp_path / "traces.npz").write_bytes(b"PK")
    with pytest.raises(RunFolderError, match="is damaged"):
        Traces.load(tmp_path / "traces.npz")


def smooth(count: int, seed: int) -> Iterator[np.ndarray]:
    """Like handwriting: mostly black, strokes with soft edges."""
    for level in np.random.default_rng(seed).integers(60, 256, (count, 7, 7)).astype(np.uint8):
        level[level < 170] = 0
        image = Image.fromarray(level).resize((28, 28), Image.Resampling.BICUBIC)
        yield np.asarray(image)[..., None]


@pytest.mark.slow
def test_ten_thousand_images_take_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import time

    private, made = np.stack([*smooth(10_000, 0)]), np.stack([*smooth(10_000, 1)])
    traces = Traces.of_names((f"patient-{n:05}.png" for n in range(10_000)), range(10**6, 10**6 + 10_000))
    traces.add_pixels(private)
    assert len(traces.windows) > 10_000
    write_images(made, np.arange(10_000) % 10, None, tmp_path / "images", format="parquet")
    began = time.process_time()
    assert list(leaks(tmp_path, Secrets(traces=traces))) == []
    assert time.process_time() - began < 30
    write_images(
        np.concatenate([made[:9_999], private[77:78]]), None, None, tmp_path / "more", format="parquet"
    )
    kinds = {kind for _, kind, _ in leaks(tmp_path / "more", Secrets(traces=traces))}
    assert kinds == {"a private image"}


def test_the_scan_reports_through_one_function(
    monkeypatch: pytest.MonkeyPatch, clean: Path, secrets: Secrets, tmp_path: Path
) -> None:
    """Every leak of a release is told at once, by file."""
    (clean / "one").write_bytes(TEXTS["plain"])
    (clean / "two").write_bytes(PIXELS["raw"])
    with pytest.raises(VerificationError) as caught:
        leak_scan.require_no_leak(clean, secrets, tmp_path / "leaks.json")
    assert "one holds the id of a unit; two holds bytes of a private image" in caught.value.message


def test_a_plain_area_in_colour_is_nobodys_piece() -> None:
    """White that is (255, 252, 254) stands in any picture; the row that differs is this one's."""
    white = np.array([255, 252, 254], np.uint8)
    images = np.tile(white, (1, 32, 32, 1))
    images[0, 9] = np.random.default_rng(0).integers(0, 256, (32, 3))
    traces = Traces()
    traces.add_pixels(images)
    plain = np.tile(white, (64, 1))
    everywhere = plain.tobytes() + (plain.astype(np.float32) / 127.5 - 1).tobytes()
    pieces = [window.tobytes() for window in traces.windows]
    assert len(pieces) == 4, "colours last and first, whole numbers and floats"
    assert not any(piece in everywhere for piece in pieces)
    assert any(piece in images.tobytes() for piece in pieces)


def test_no_word_of_a_card_is_a_secret() -> None:
    """A user called like one would have a training refused after it was paid for."""
    root = Path(dp_diffusers.__file__).parent
    for name in ("cards/model_card.py", "privacy/statements.py", "privacy/assumptions.py", "training.py"):
        assert (root / name).read_text(encoding="utf-8") in own_words(), name
