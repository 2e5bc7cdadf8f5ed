"""Several grids: each table in [vary] has settings for jobs, and every combination of the values in its lists.

    [vary.topk]
    k = [32, 64]

    [vary.relu]
    activation = "relu"
    l1_coefficient = [16.0, 24.0]

These are four jobs. A job's name is that of its table, with what varies in it.
"""

from itertools import product


def plan(request):
    if not request.vary:
        raise ValueError("[vary] is empty: give it a table of settings for each grid")
    for table, settings in request.vary.items():
        if not isinstance(settings, dict):
            raise ValueError(f"[vary] {table} must be a table of settings, such as [vary.{table}]")
        axes = {key: value if isinstance(value, list) else [value] for key, value in settings.items()}
        if [] in axes.values():
            raise ValueError(f"[vary] {table} has an empty list: it would leave no job")
        varied = [key for key, values in axes.items() if len(values) > 1]
        for values in product(*axes.values()):
            own = dict(zip(axes, values))
            name = ",".join([table, *(f"{key}={show(own[key])}" for key in varied)])
            yield job(own, name=name)


def show(value):
    return "+".join(map(show, value)) if isinstance(value, list) else f"{value}"
