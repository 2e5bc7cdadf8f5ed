"""Settings side by side: the first values of all lists in [vary] make the first job, and so on."""


def plan(request):
    lists = {key: value for key, value in request.vary.items() if isinstance(value, list)}
    if not lists:
        raise ValueError("[vary] has no list: give at least one setting a list of values")
    lengths = {key: len(value) for key, value in lists.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise ValueError(f"the lists in [vary] must be equally long: {told}")
    if 0 in lengths.values():
        raise ValueError("the lists in [vary] are empty: they would leave no job")
    for values in zip(*lists.values()):
        own = dict(zip(lists, values))
        name = ",".join(f"{key}={show(value)}" for key, value in own.items())
        # A value that is not a list is the same for all, in the order of the file.
        yield job({key: own.get(key, value) for key, value in request.vary.items()}, name=name)


def show(value):
    return "+".join(map(show, value)) if isinstance(value, list) else f"{value}"
