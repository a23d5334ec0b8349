"""A space: what is fixed, what is searched, and the recipe that a trial draws from it.

`Space.suggest` is Optuna's define-by-run: it asks only for the parameters of the branches that are taken.
Parameter names are YAML paths with the branch in them: `optimizer/lr`, `model/head/upernet/channels`. The choice
between branches is `model/head/name`: Ray nests names at each slash, so no name may be the beginning of another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from search.space.allowed_keys import FIXED_SECTIONS, recipe_grammar
from search.space.initial_trials import read_points
from search.space.licence_filter import keep_commercial
from search.space.locate import locate
from search.space.model_table import PARTS, family_firsts, model_problems, parse_model
from search.space.nodes import Branches, Choice, Fixed, Group, Range, Searched, draw, searched
from search.space.options import Options
from search.space.parser import parse_section
from search.space.problems import SpaceProblems, nearest
from search.space.recipe_checks import middle, recipe_problems, slow_operators
from search.space.space_file import NOT_OVERRIDDEN, apply_override, is_search, read_space_file
from search.space.yaml_format import dump_yaml
from trainables.files import user_path
from trainables.recipe.recipe import Recipe, backbone_family

if TYPE_CHECKING:
    from optuna.trial import Trial

POINTS = "points"
SPLIT_FILE = ("split", "file")
KEYED_BY_DATA = (("pseudo", "target_precision"),)  # a class may be called `log`

__all__ = ["Parameter", "Space", "SpaceProblems", "load_space", "profile_names"]


@dataclass(frozen=True)
class Parameter:
    """One searched value, for tables."""

    name: str
    kind: str  # choice, float, int, log or branch
    values: tuple[Any, ...]  # the items, the branches' names, or (low, high)


@dataclass(frozen=True)
class Space:
    name: str
    profile: str | None  # the one that was applied
    profiles: tuple[str, ...]  # those that it offers
    options: Options
    tree: dict[str, Any]  # resolved, with every option spelt out
    root: Group = field(repr=False)  # shaped like a recipe
    points: tuple[dict[str, Any], ...] = ()  # settings to try first; what they leave out is at its default
    lost: tuple[str, ...] = ()  # points of the file that --set made impossible, and why
    left_out: tuple[str, ...] = ()  # weights that `licences` excludes from a choice

    def suggest(self, trial: Trial) -> Recipe:
        """The recipe of a trial; the trial keeps the parameters that it was asked for."""

        def pick(node: Searched) -> Any:
            if isinstance(node, Branches):
                return trial.suggest_categorical(node.parameter, list(node.bodies))
            if isinstance(node, Choice):
                return node.stored[trial.suggest_categorical(node.parameter, list(node.stored))]
            if node.kind == "int":
                return trial.suggest_int(node.parameter, int(node.low), int(node.high))
            return trial.suggest_float(node.parameter, node.low, node.high, log=node.kind == "log")

        return Recipe.model_validate(draw(self.root, pick))

    def defaults(self) -> list[dict[str, Any]]:
        """Flat parameters of the recipes to be tried first: the space's `points`, then one of each other family.

        The family's first backbone; the first item or branch of a choice; the middle of a range, geometric for log.
        """
        first = [self._parameters_at(point) for point in self.points]
        covered = {self._family_at(point) for point in self.points}
        rest = [picks for family, picks in family_firsts(self.root) if family not in covered]
        return first + [self._parameters_at(picks) for picks in rest]

    def parameters_of(self, recipe: Recipe) -> dict[str, Any]:
        """The flat parameters, as a trial stores them, that draw the recipe but for its seed and number of epochs.

        Raises ValueError, naming the values that lie outside, for a recipe that this space does not hold.
        """
        return self._parameters_at(locate(self.root, recipe))

    def parameters(self) -> list[Parameter]:
        """Every searched parameter once, in the order of the file."""
        table: dict[str, Parameter] = {}
        for node in searched(self.root):
            if isinstance(node, Range):
                table[node.parameter] = Parameter(node.parameter, node.kind, (node.low, node.high))
            elif isinstance(node, Choice):
                table[node.parameter] = Parameter(node.parameter, "choice", node.items)
            else:
                table[node.parameter] = Parameter(node.parameter, "branch", tuple(node.bodies))
        return list(table.values())

    def check_data(self, sizes: Sequence[tuple[int, int]], num_classes: int) -> None:
        """Raises SpaceProblems where a recipe does not suit training images of these sizes (height, width in px), or
        so many classes."""
        problems = recipe_problems(self.root, {"image_sizes": sorted(set(sizes)), "num_classes": num_classes})
        if problems:
            raise SpaceProblems(self.name, problems)

    def warnings(self) -> list[str]:
        """Values that are allowed but probably not meant, one line each."""
        lost = [f"left out, since --set changed the space: {line}" for line in self.lost]
        return [f"left out: {line}" for line in self.left_out] + lost + slow_operators(self.root)

    def to_yaml(self) -> str:
        """The resolved space: one file that stands alone and reads back as this space."""
        origin = f"# {self.name}.yaml" + (f", profile {self.profile}" if self.profile else "")
        return f"{origin}, resolved\n{dump_yaml(self.tree)}"

    def _family_at(self, picks: Mapping[str, Any]) -> str:
        values = draw(self.root, lambda node: picks.get(node.parameter, middle(node)))
        return backbone_family(values["backbone"]["name"])

    def _parameters_at(self, picks: Mapping[str, Any]) -> dict[str, Any]:
        parameters: dict[str, Any] = {}

        def pick(node: Searched) -> Any:
            value = picks[node.parameter] if node.parameter in picks else middle(node)
            stored = node.stored.items() if isinstance(node, Choice) else [(value, value)]
            parameters[node.parameter] = next(kept for kept, item in stored if item == value)
            return value

        draw(self.root, pick)
        return parameters


def load_space(spec: str, *, profile: str | None = None, overrides: Sequence[str] = ()) -> Space:
    """Reads, merges and checks a space; `spec` is a path, else a file in spaces/.

    Raises SpaceProblems with everything that is wrong, each with its YAML path, rule, value and nearest match.
    """
    file = read_space_file(spec, profile=profile, overrides=overrides)
    problems = list(file.problems)
    tree = _absolute_files(file.tree, (), problems)
    for key in tree:
        if key not in (*recipe_grammar().keys, *FIXED_SECTIONS, POINTS):
            known = [*recipe_grammar().keys, *FIXED_SECTIONS, POINTS, *NOT_OVERRIDDEN]
            problems.append(f"{key}: unknown key{nearest(key, known)}")
    options = _read_options({key: tree[key] for key in FIXED_SECTIONS if key in tree}, problems)
    root = _recipe_nodes({key: tree[key] for key in tree if key in recipe_grammar().keys}, options, problems)
    whole = all(part in root.children for part in PARTS)
    problems += recipe_problems(root)
    problems += model_problems(root) if whole and not problems else []
    left_out: list[str] = []
    if options.licences == "commercial" and not problems:
        root, left_out = keep_commercial(root, problems)
    lost: list[str] = []
    kept, points = read_points(tree.get(POINTS) or [], root, lost) if whole and not problems else ([], [])
    if not overrides:
        # the file contradicts itself; what --set fixed may contradict its points
        problems += [*left_out, *lost] if lost else []
    if problems:
        raise SpaceProblems(file.name, list(dict.fromkeys(problems)))
    resolved = {key: tree[key] for key in tree if key in recipe_grammar().keys} | options.model_dump(mode="json")
    if kept:
        resolved[POINTS] = kept
    found = tuple(points), tuple(lost), tuple(left_out)
    return Space(file.name, file.profile, file.profiles, options, resolved, root, *found)


def read_section(key: str, assignments: Sequence[str]) -> Options:
    """The options with `KEY=VALUE` laid on the section at `key`. Raises ValueError with everything that is wrong."""
    problems: list[str] = []
    tree: dict[str, Any] = {}
    for assignment in assignments:
        tree = apply_override(tree, assignment, problems)
    options = _read_options({key: tree}, problems)
    if problems:
        raise ValueError("\n".join(problems))
    return options


def profile_names(spec: str) -> tuple[str, ...]:
    """The profiles that a space offers, before it is checked. Raises SpaceProblems where it cannot be read."""
    return read_space_file(spec).profiles


def _recipe_nodes(tree: dict[str, Any], options: Options, problems: list[str]) -> Group:
    """Nodes in the recipe's own shape: `model` split up, values that the options decide filled in."""
    model = recipe_grammar().keys["model"]
    assert not isinstance(model, FieldInfo)
    given = tree.get("model")
    parsed = parse_section(recipe_grammar(), {key: tree[key] for key in tree if key != "model"}, (), problems)
    assert isinstance(parsed, Group)
    children = {**parsed.children, **parse_model(model, given, problems)}
    train = children.get("train", Group(("train",), {}))
    assert isinstance(train, Group)
    epochs = Fixed(("search", "max_epochs"), options.search.max_epochs)
    children["train"] = Group(train.path, {**train.children, "num_epochs": epochs})
    children["seed"] = Fixed(("seed",), options.seed)
    return Group((), children)


def _read_options(tree: dict[str, Any], problems: list[str]) -> Options:
    """The options, or their defaults where they are faulty, so that the rest can still be checked."""
    for key, section in tree.items():
        for name, value in section.items() if isinstance(section, dict) else ():
            if is_search(value) and (key, name) not in KEYED_BY_DATA:
                problems.append(f"{key}.{name}: options are never searched; write one value, got {value!r}")
                tree = {**tree, key: {inner: tree[key][inner] for inner in tree[key] if inner != name}}
    try:
        return Options.model_validate({key: value for key, value in tree.items() if value is not None})
    except ValidationError as error:
        details = error.errors(include_url=False)
        for detail in details:
            if any(other["loc"][:-1] == detail["loc"] for other in details):
                continue  # a list that is too short only because its items were refused
            path = ".".join(str(key) for key in detail["loc"])
            if detail["type"] == "extra_forbidden":
                problems.append(f"{path}: unknown key{nearest(detail['loc'][-1], _keys_at(detail['loc'][:-1]))}")
            elif detail["type"] == "value_error":
                problems.append(f"{path}: {detail['msg'].removeprefix('Value error, ')}")
            else:
                rule = detail["msg"].replace("Input should be", "must be")
                problems.append(f"{path}: {rule}, got {detail['input']!r}")
    return Options()


def _keys_at(path: Sequence[int | str]) -> Collection[str]:
    """The keys of a section of the options, which may be one that is off by default."""
    section: Any = Options
    for key in path:
        annotation = section.model_fields[key].annotation
        section = next(part for part in (annotation, *get_args(annotation)) if hasattr(part, "model_fields"))
    keys: Collection[str] = section.model_fields
    return keys


def _absolute_files(tree: Any, path: tuple[str, ...], problems: list[str]) -> Any:
    """`weights_file` and `split.file` made absolute: trials run in folders of their own, and a run may be resumed from
    any folder."""
    if isinstance(tree, list):
        return [_absolute_files(item, path, problems) for item in tree]
    if isinstance(tree, dict):
        return {key: _absolute_files(value, (*path, key), problems) for key, value in tree.items()}
    if not isinstance(tree, str) or not ("weights_file" in path or path == SPLIT_FILE):
        return tree
    try:
        file = user_path(tree).absolute()
    except ValueError as error:
        problems.append(f"{'.'.join(path)}: {error}; correct it")
        return tree
    if not file.is_file():
        problems.append(f"{'.'.join(path)}: no such file, got {tree!r}; paths are relative to the current folder")
    return str(file)
