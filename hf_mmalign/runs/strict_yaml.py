"""YAML from strangers and from the command line: small, shallow, without double keys, and no larger than it looks."""

from typing import Any

import yaml

# Recipes have some 3000 characters; PyYAML reads 100 000 a second, and some numbers in time square to their length.
LONGEST = 1 << 18
# Parts and characters, aliases (`*name`) and merges (`<<`) unfolded: repr, copies and comparisons meet all of them.
_MOST = 1 << 20
_MAX_HEIGHT = 50


def parse_yaml(text: str, name: str = "the value") -> Any:
    """Read YAML as `yaml.safe_load` does, with limits.

    Args:
        text (`str`): One document.
        name (`str`): What errors call it.

    Raises:
        ValueError: For what is no YAML, has a key twice in one mapping, more than 262 144 characters, aliases that unfold
            to more than a million parts, or more than 50 levels. The message says where.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text)} characters, and at most {LONGEST} are read")
    try:
        loader = yaml.SafeLoader(text)
        loader.name = name
        node = loader.get_single_node()
        if node is None:
            return None
        _Measure()(node)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(f"it is nested in more than {_MAX_HEIGHT} levels") from None
    except (_RefusedError, yaml.YAMLError) as error:
        raise ValueError(str(error)) from error
    # `!!bool maybe`, the 99th of a month, an integer of 5000 digits: PyYAML lets nearly any error through.
    except Exception as error:
        raise ValueError(f"a value is not what it claims to be ({type(error).__name__}: {error})") from error


class _RefusedError(Exception):
    def __init__(self, message: str, node: yaml.Node):
        super().__init__(f"{message}\n{node.start_mark}")


class _Measure:
    """Walks a document's nodes before anything is built of them. Anchored parts count wherever their aliases stand."""

    def __init__(self):
        self._done: dict[int, tuple[int, int] | None] = {}  # by id: size and height, or None while it is being walked

    def __call__(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node), 0
        if id(node) not in self._done:
            self._done[id(node)] = None
            self._done[id(node)] = self._collection(node)
        measured = self._done[id(node)]
        if measured is None:
            raise _RefusedError("an alias of a part stands within that part", node)
        return measured

    def _scalar(self, node: yaml.ScalarNode) -> int:
        if any("\ud800" <= character <= "\udfff" for character in node.value):
            raise _RefusedError("half a character (a lone surrogate) is no text", node)
        return 1 + len(node.value)

    def _collection(self, node: yaml.CollectionNode) -> tuple[int, int]:
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            self._refuse_double_keys(node)
            parts = [part for pair in node.value for part in pair]
        size, height = 1, 0
        for part in parts:
            part_size, part_height = self(part)
            size, height = size + part_size, max(height, part_height)
            if size > _MOST:
                raise _RefusedError(f"aliases unfold to more than {_MOST} parts", node)
        if height >= _MAX_HEIGHT:
            raise _RefusedError(f"it is nested in more than {_MAX_HEIGHT} levels", node)
        return size, height + 1

    def _refuse_double_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _RefusedError(f"the key {key.value[:80]!r} stands twice in one mapping", key)
                seen.add((key.tag, key.value))
