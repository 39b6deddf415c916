"""Reading small YAML files strictly: every scalar is text, every complaint has a line number.

YAML 1.1 reads ``yes``, ``no``, ``on`` and ``off`` as booleans and ``0`` as a number; as labels of
speech they are words. So nothing is constructed here: the node tree is walked and the text of each
scalar is taken as it stands in the file.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from speechcwcl.errors import UserError, closest
from speechcwcl.files import read_text


class StrictYaml:
    """One YAML file whose root is a mapping.

    Args:
        path: the file.

    Attributes:
        path: the file, as given.
        root: the top-level mapping node.

    Raises:
        UserError: unreadable, not UTF-8, not YAML, empty, or not a mapping.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        text = read_text(self.path)
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            problem = error.problem or error.context or "cannot be parsed"
            raise UserError(f"{self.path}:{line}: not valid YAML: {problem}") from error
        except yaml.YAMLError as error:
            raise UserError(f"{self.path}: not valid YAML: {error}") from error
        except RecursionError as error:
            raise UserError(f"{self.path}: not valid YAML: nested too deeply") from error
        if root is None:
            raise UserError(f"{self.path}: the file is empty; expected 'key: value' lines")
        self.root = root

    def where(self, node: yaml.Node) -> str:
        """``file:line`` of a node."""
        return f"{self.path}:{node.start_mark.line + 1}"

    def mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key text -> (key node, value node), in file order; a repeated key is refused."""
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{self.where(node)}: {what} must be a mapping of 'key: value' lines")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            key = self.text(key_node, f"a key of {what}")
            if key in found:
                first = found[key][0].start_mark.line + 1
                raise UserError(
                    f"{self.where(key_node)}: {key!r} stands twice in {what}"
                    f" (first in line {first})"
                )
            found[key] = (key_node, value_node)
        return found

    def fields(
        self, known: tuple[str, ...], required: tuple[str, ...], what: str
    ) -> dict[str, yaml.Node]:
        """The top-level values by key; unknown and missing keys are refused."""
        found = self.mapping(self.root, what)
        for key, (key_node, _) in found.items():
            if key not in known:
                raise UserError(
                    f"{self.where(key_node)}: {what} has no key {key!r}"
                    f"{closest(key, known)}; known keys: {', '.join(known)}"
                )
        for key in required:
            if key not in found:
                raise UserError(f"{self.path}: {what} needs the key {key!r}")
        return {key: value for key, (_, value) in found.items()}

    def text(self, node: yaml.Node, what: str) -> str:
        """A scalar as text, white space squeezed; empty is refused."""
        if not isinstance(node, yaml.ScalarNode):
            raise UserError(f"{self.where(node)}: {what} must be text")
        value = " ".join(node.value.split())
        if not value:
            raise UserError(f"{self.where(node)}: {what} is empty")
        return value

    def texts(self, node: yaml.Node, what: str) -> list[str]:
        """A scalar or a list of scalars, as a list of text; empty and repeated are refused."""
        if isinstance(node, yaml.ScalarNode):
            return [self.text(node, what)]
        if not isinstance(node, yaml.SequenceNode):
            raise UserError(f"{self.where(node)}: {what} must be text or a list of texts")
        values: list[str] = []
        for item in node.value:
            value = self.text(item, what)
            if value in values:
                raise UserError(f"{self.where(item)}: {value!r} stands twice in {what}")
            values.append(value)
        if not values:
            raise UserError(f"{self.where(node)}: {what} is empty")
        return values
