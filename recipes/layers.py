"""One job for each chosen block: by stride, first and last, or fractions of the depth.

    [vary]
    stride = 2                        # every second block
    first = 0
    last = -1                         # negative: from the end
    submodule = "mlp"                 # layers.N.mlp instead of layers.N
    k = [32, 64]                      # lists of settings: every combination, for each block
    by_layer = { expansion_factor = [8, 32] }     # linear from the first block to the last

With `fractions = [0.25, 0.5, 0.75]` it takes the blocks at these depths.
"""

from itertools import product

SETTINGS = {
    "stride": (1, "take every N-th block"),
    "first": (0, "first block; negative: from the end"),
    "last": (-1, "last block; negative: from the end"),
    "fractions": ([], "depths between 0 and 1 to take instead of a stride"),
    "submodule": ("", "part of the block, such as `mlp`; empty: the block itself"),
    "by_layer": ({}, "settings whose values change linearly from the first to the last block: [at the first, at the last]"),
}


def plan(request):
    own = {name: request.vary.get(name, default) for name, (default, _) in SETTINGS.items()}
    axes = {key: value for key, value in request.vary.items() if key not in SETTINGS}
    axes = {key: value if isinstance(value, list) else [value] for key, value in axes.items()}
    if [] in axes.values():
        raise ValueError("[vary] has an empty list: it would leave no job")
    layers = chosen(request.model.n_layers, own)
    for layer in layers:
        depth = (layer - layers[0]) / max(layers[-1] - layers[0], 1)
        point = ".".join(filter(None, [request.model.layers_name, str(layer), own["submodule"]]))
        graded = {key: between(key, ends, depth) for key, ends in own["by_layer"].items()}
        for values in product(*axes.values()):
            grid = dict(zip(axes, values))
            name = ",".join([point, *(f"{key}={value}" for key, value in grid.items())])
            yield job({"hookpoints": [point], **grid, **graded}, name=name)


def chosen(n_layers, own):
    first, last = (index(own[key], n_layers, key) for key in ("first", "last"))
    if own["fractions"]:
        if not all(0 <= fraction <= 1 for fraction in own["fractions"]):
            raise ValueError(f"[vary] fractions must lie between 0 and 1, got {own['fractions']}")
        return sorted({round(fraction * (n_layers - 1)) for fraction in own["fractions"]})
    if own["stride"] < 1 or first > last:
        raise ValueError(f"no block lies between {first} and {last} with a stride of {own['stride']}")
    return list(range(first, last + 1, own["stride"]))


def index(layer, n_layers, key):
    if not -n_layers <= layer < n_layers:
        raise ValueError(f"[vary] {key} = {layer}, and the model has {n_layers} blocks")
    return layer % n_layers


def between(key, ends, depth):
    if not (isinstance(ends, list) and len(ends) == 2):
        raise ValueError(f"[vary] by_layer.{key} must be [at the first, at the last block], got {ends}")
    value = ends[0] + (ends[1] - ends[0]) * depth
    return round(value) if all(isinstance(end, int) for end in ends) else value
