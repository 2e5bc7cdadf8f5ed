"""TEMPLATE: one job for each k. (This line is what `sae-run recipes` shows.)"""

# The keys of [vary] that this recipe reads: name: (default, meaning); `...` if it must be there.
SETTINGS = {
    "ks": ([16, 32, 64], "numbers of active latents"),
}


def plan(request):
    """Yield the jobs: dicts of the settings that differ from [train], or `job(...)` with a name.

    request.vary and request.train are the tables of the sweep, request.model has n_layers,
    hidden_size and hookpoints, request.seed seeds `random`. There are no files, no network and no
    clock. Try it: `sae-run recipes request SWEEP.toml > request.json`, then
    `sae-run recipes test recipes/TEMPLATE.py --request request.json`.
    """
    for k in request.vary.get("ks", SETTINGS["ks"][0]):
        yield job({"k": k}, name=f"k={k}", note="what is special about it")

    # A recipe may look at results and ask again: call `more()` in this round, and find
    # `request.results` (fvu, l0, dead_pct, ... of each SAE) when `request.round` is 1.
