"""The Python engine: runs a recipe's source text and returns the jobs it proposes.

A recipe is a file with one function:

    def plan(request):
        for k in request.vary["k"]:
            yield {"k": k}

It yields, or returns a list of, dicts: the settings of one job that differ from `[train]`.

request.sweep                      name of the sweep
request.train, request.vary        the two tables of the sweep, as dicts
request.model                      n_layers, hidden_size, vocab_size, max_ctx_len, ..., and
                                   hookpoints: a list with name, d_in, d_out of each submodule
request.seed, request.round        `random` is seeded with the seed; rounds count from 0
request.results                    of earlier rounds: job, overrides, hookpoint, seed, k, num_latents,
                                   fvu, l0, dead_pct, ce_recovered (None: not evaluated) of each SAE
job(overrides, name=None, note=None)   may be yielded instead of a dict
more()                             ask to be called again with results when these jobs have ended

The first line of the file's docstring says what the recipe does. A constant

    SETTINGS = {"stride": (1, "every N-th block")}

says which keys of [vary] the recipe reads itself, with their defaults (`...`: no default, the key must
be there); `sae-run recipes` shows it without running the recipe. What it prints is shown only when it
fails. There are no files, no network and no clock.
"""

import ast
import contextlib
import dataclasses
import importlib.machinery
import io
import json
import math
import random
import sys
import traceback
import types

# For recipes to import: a module that is not loaded when the engine is built cannot be loaded later.
import __future__, _strptime, abc, base64, bisect, cmath, collections, collections.abc, copy, csv
import datetime, decimal, enum, fnmatch, fractions, functools, graphlib, hashlib, heapq, itertools
import numbers, operator, pprint, re, statistics, string, struct, textwrap, typing, unicodedata

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import types as records


class RecipeError(Exception):
    """A recipe that breaks the rules above."""


class PythonPlanner(exports.PythonPlanner):
    """The component's exports."""

    def describe(self, source):
        with errors_as_text(source.file_name):
            return describe(source)

    def plan(self, source, request):
        with errors_as_text(source.file_name):
            return plan(source, request)


def describe(source):
    module = ast.parse(source.text, source.file_name)
    docstring = ast.get_docstring(module) or ""
    summary = docstring.strip().partition("\n")[0]
    name = source.file_name.rpartition("/")[2].removesuffix(".py")
    return records.Description(name, summary, list(settings(module)))


def settings(module):
    """The settings that the constant `SETTINGS` of a recipe declares."""
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="SETTINGS")], value=value):
                for name, (default, meaning) in literal(value).items():
                    if default is ...:
                        yield records.Setting(name, "any", None, meaning)
                    else:
                        kind = "any" if default is None else type(default).__name__
                        yield records.Setting(name, kind, json.dumps(default), meaning)


def literal(value):
    try:
        declared = ast.literal_eval(value)
        for name, (_default, meaning) in declared.items():
            if not isinstance(name, str) or not isinstance(meaning, str):
                raise TypeError
        return declared
    except (AttributeError, TypeError, ValueError):
        what = "a dict of literals: {name: (default, meaning)}"
        raise RecipeError(f"line {value.lineno}: `SETTINGS` must be {what}") from None


def plan(source, request):
    more_calls = []
    random.seed(request.seed)
    recipe = load(source, {"job": job, "more": lambda: more_calls.append(True)})
    if not callable(recipe.get("plan")):
        raise RecipeError("there is no function `plan(request)`")
    proposed = recipe["plan"](decode(request))
    if isinstance(proposed, (dict, str)) or not hasattr(proposed, "__iter__"):
        kind = type(proposed).__name__
        raise RecipeError(f"`plan` must yield dicts or return a list of them, got {kind}")
    jobs = [draft(number, item) for number, item in enumerate(proposed, start=1)]
    return records.PlanResponse(jobs, done=not more_calls)


def load(source, helpers):
    """Run the recipe's top level and return its globals."""
    code = compile(source.text, source.file_name, "exec")
    module = types.ModuleType("recipe")
    sys.modules["recipe"] = module  # dataclasses look their module up
    vars(module).update(helpers)
    exec(code, vars(module))
    return vars(module)


def close_doors():
    """Make calls that would only trap, since there is no machine, raise an error with a line number."""
    sys.addaudithook(refuse)
    sys.meta_path[:] = [importlib.machinery.BuiltinImporter, NoMoreModules]


def refuse(event, _arguments):
    if event == "open" or event.startswith(("os.", "shutil.", "socket.", "subprocess.", "time.")):
        raise PermissionError(f"`{event}`: a recipe has no files, no network and no clock")


class NoMoreModules:
    """Says why an import fails; the default would look for files."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        why = "a recipe can only import what the engine was built with, from the standard library"
        raise ModuleNotFoundError(f"no module `{name}`: {why}")


def decode(request):
    """The request with dicts instead of JSON texts."""
    results = [
        dataclasses.replace(result, overrides=json.loads(result.overrides), k=whole(result.k))
        for result in request.results
    ]
    train, vary = json.loads(request.train), json.loads(request.vary)
    return dataclasses.replace(request, train=train, vary=vary, results=results)


def whole(number):
    """The number as an int if it is one."""
    return int(number) if number.is_integer() else number


def job(overrides, name=None, note=None):
    """One job: settings that differ from `[train]`, a name that is unique in the sweep, a note."""
    if not isinstance(overrides, dict):
        raise TypeError(f"overrides must be a dict, got {type(overrides).__name__}")
    for key, text in (("name", name), ("note", note)):
        if not isinstance(text, (str, types.NoneType)):
            raise TypeError(f"{key} must be a str, got {type(text).__name__}")
    return records.JobDraft(name, note, json.dumps(plain(overrides, "overrides")))


def draft(number, item):
    if isinstance(item, records.JobDraft):
        return item
    try:
        return job(item)
    except TypeError as error:
        raise RecipeError(f"job {number}: {error}") from None


def plain(value, path):
    """`value` if it is made of JSON's types alone."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {key!r}, which is not a str")
        return {key: plain(item, f"{path}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise TypeError(f"{path} is {value!r:.60}, of type {type(value).__name__}: not a JSON value")


@contextlib.contextmanager
def errors_as_text(file_name):
    """Turn any exception into the error `file:line: Type: message`."""
    printed = io.StringIO()
    close_doors()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield
    except BaseException as error:
        text = f"{location(error, file_name)}: {message(error)}"
        if printed.getvalue():
            text += f"\nprinted before: {printed.getvalue()[-2000:].rstrip()}"
        raise Err(text) from None


def location(error, file_name):
    if isinstance(error, SyntaxError) and error.filename == file_name:
        return f"{file_name}:{error.lineno}"
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == file_name]
    return f"{file_name}:{lines[-1]}" if lines else file_name


def message(error):
    if isinstance(error, RecipeError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
