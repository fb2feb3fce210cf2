"""How many inputs each fuzz test tries: a few dozen, or as many as `--fuzz-examples` says."""

import harness
from hypothesis import HealthCheck, settings

_FEW = 25


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-examples", type=int, help="inputs of each fuzz test, drawn anew in each run"
    )


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore:Generating overly large repr")
    many = config.getoption("--fuzz-examples", None)
    settings.register_profile(
        "fuzz",
        max_examples=many or _FEW,
        derandomize=many is None,  # --hypothesis-seed=N repeats a long run
        database=None,
        deadline=None,  # the harness has a watchdog
        print_blob=False,
        # A refused input is refused in a millisecond and a sound one is read in a hundred; the
        # fixtures are folders that each input is written into.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    settings.load_profile("fuzz")


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--fuzz-examples", None) and harness.TRIED:
        terminalreporter.section("fuzzed")
        for name, count in sorted(harness.TRIED.items()):
            refused = harness.REFUSED[name]
            terminalreporter.write_line(f"{name}: {count} tried, {refused} refused")
