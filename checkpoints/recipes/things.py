"""Every kind of thing there is, with the colours it comes in, its names and its parts' names."""

import things_desk
import things_home
import things_table
import things_toys
from look import Kind

_MODULES = (things_table, things_desk, things_toys, things_home)

KINDS: dict[str, Kind] = {name: k for module in _MODULES for name, k in module.KINDS.items()}
PART_WORDS: dict[str, tuple[str, ...]] = {
    part: words for module in _MODULES for part, words in module.PART_WORDS.items()
}
