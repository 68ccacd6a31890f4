"""One cluster for all tests of this folder."""

from collections.abc import Generator, Iterator

import pytest

from tests.launch.cluster.cluster import Cluster, Unavailable


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Tests that leave jobs, or nodes that are down, call `restore` at their end."""
    try:
        running = Cluster().start()
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield running
    running.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what the daemons had to say."""
    report = yield
    running = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(running, Cluster):
        report.sections.append(("SLURM's daemons", running.logs()))
    return report
