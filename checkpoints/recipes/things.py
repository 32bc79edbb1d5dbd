"""All kinds of things, with their colours, their names and the names of their parts."""

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
