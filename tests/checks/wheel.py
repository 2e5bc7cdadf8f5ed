"""The wheel: built, and installed beside PyTorch into fresh environments."""

from check import ROOT, Check, Command, set_up


def checks(profile: str) -> list[Check]:
    build = Check("wheel", [Command([str(ROOT / "runner/setup/wheel.sh"), profile])])
    versions = set_up("torches").split()
    oldest, newest = installed(versions[0]), installed(versions[-1], set_up("python"))
    return [build, oldest, newest]


def installed(version: str, *python: str) -> Check:
    script = str(ROOT / "tests/checks/installed.sh")
    return Check(f"installed on {version}", [Command([script, version, *python])])
