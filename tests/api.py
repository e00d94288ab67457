"""The public API as a list that people can read, `tests/api.txt`.

`python -m tests.api` writes it anew from the sources, without importing them. A test
compares: whoever changes what users rely on has to say so by changing the list.
"""

from collections.abc import Iterator
from pathlib import Path

import griffe


ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "api.txt"
CALLS = ("__init__", "__call__")  # names with underscores that users write without them


def package() -> griffe.Module:
    return griffe.load("eqx_slots", search_paths=[ROOT], try_relative_path=False)


def namespaces(module: griffe.Module) -> Iterator[griffe.Module]:
    """Modules that users import from, outer ones first."""
    yield module
    for name, member in module.modules.items():
        if name in module.imports and not member.is_alias:
            yield from namespaces(member)


def public(module: griffe.Module) -> dict[str, griffe.Object]:
    """What a namespace offers: an `__init__.py` gives names on, other files define."""
    found = {}
    for name, member in module.members.items():
        ours = not member.is_alias
        if member.is_alias and module.is_init_module:
            ours = member.target_path.startswith("eqx_slots.")
        if ours and not name.startswith("_") and not member.is_module:
            found[name] = member.final_target if member.is_alias else member
    return found


def names(module: griffe.Module) -> dict[str, griffe.Object]:
    """Public names by the path that users write; what is at two, by the deeper one."""
    found = {}
    for namespace in sorted(namespaces(module), key=lambda it: it.path):
        for name, member in sorted(public(namespace).items()):
            found[f"{namespace.path}.{name}"] = member
    homes = {member.path: path for path, member in found.items()}
    return {
        path: member for path, member in found.items() if homes[member.path] == path
    }


def members(owner: griffe.Class) -> dict[str, griffe.Object]:
    """Fields and methods that users may touch, with those of our own base classes."""
    wanted = lambda name: not name.startswith("_") or name in CALLS
    return {name: member for name, member in owner.all_members.items() if wanted(name)}


def written(path: str, member: griffe.Object) -> str:
    """A name as one line: a call with its signature, a field with type and default."""
    if member.is_function and "property" not in member.labels:
        return _call(path, member)
    if member.is_class:
        bases = ", ".join(str(base) for base in member.bases)
        return f"{path}: class of {bases}" if bases else f"{path}: class"
    line = path
    if member.annotation is not None:
        line += f": {member.annotation}"
    # What `__init__` makes of its arguments is no promise.
    promised = member.is_attribute and "__init__" not in member.parent.members
    if promised and member.value is not None:
        line += f" = {' '.join(str(member.value).split())}"
    return line


def _call(path: str, function: griffe.Function) -> str:
    kind, shown, starred = griffe.ParameterKind, [], False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is kind.keyword_only and not starred:
            shown.append("*")
            starred = True
        starred |= parameter.kind is kind.var_positional
        stars = {kind.var_positional: "*", kind.var_keyword: "**"}
        text = stars.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and parameter.kind not in stars:
            text += f" = {parameter.default}"
        shown.append(text)
        if parameter.kind is kind.positional_only:
            shown.append("/")
    result = "" if function.returns is None else f" -> {function.returns}"
    return f"{path}({', '.join(shown)}){result}"


def record() -> str:
    lines, homes = [], {}
    for path, member in names(package()).items():
        homes[member.path] = path
        lines.append(written(path, member))
        if member.is_class:
            below = members(member).items()
            lines += [written(f"{path}.{name}", part) for name, part in below]
    for name, member in sorted(public(package()).items()):
        lines.append(f"eqx_slots.{name} = {homes[member.path]}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    RECORD.write_text(record())
