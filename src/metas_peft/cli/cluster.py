"""Jobs on a Ray cluster: the one that RAY_ADDRESS names, else one started on this computer.

Every job is a command of ours with absolute paths, so that nodes need our package and the shared folder, no more.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metas_peft.core.errors import MetasPeftError, UsageError

WORKERS = 2  # at once, where nobody says how many
RETRIES = 3  # of a job whose node died; a job that failed by itself is not repeated


def on_ray(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], *, workers: int) -> list[Any]:
    """Results of calls made on a cluster, in order.

    Args:
        function: A function that nodes can import.
        calls: Its arguments, one tuple per call.
        workers: How many run at once on a cluster that is started here; on a running one its resources decide.

    Raises:
        UsageError: Ray is not installed or cannot be imported.
        MetasPeftError: A call failed; the others have had their turn.
    """
    ray = _ray()
    import os

    address = os.environ.get("RAY_ADDRESS")
    own = {} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(address=address, log_to_driver=True, **own)
    try:
        remote = ray.remote(max_retries=RETRIES, **needs(ray.cluster_resources()))(function)
        pending = [remote.remote(*call) for call in calls]
        results, failures = [], []
        for reference in pending:
            try:
                results.append(ray.get(reference))
            except ray.exceptions.RayError as error:
                failures.append(error)
        if failures:
            cause = getattr(failures[0], "cause", None) or failures[0]
            raise MetasPeftError(f"{len(failures)} of {len(calls)} jobs failed on the cluster; the first: {cause}")
        return results
    finally:
        ray.shutdown()


def needs(resources: Mapping[str, float]) -> dict[str, int]:
    """What one job asks of a cluster: a processor, and a GPU where there are any.

    Ray hides the GPUs from a job that asks for none, so that it would train on processors without a word.
    """
    return {"num_cpus": 1, "num_gpus": int(resources.get("GPU", 0) >= 1)}


def absolute(run: str, output_dir: str) -> tuple[str, str]:
    """A run file and an output folder as nodes find them on a shared file system."""
    path = Path(run).expanduser()
    return (str(path.resolve()) if path.is_file() else run), str(Path(output_dir).resolve())


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError("--launcher ray needs Ray: pip install 'metas-peft[cluster]'.") from error
    except Exception as error:  # Ray looks at every kind of accelerator while it is imported
        raise UsageError(
            f"Ray is installed but cannot be imported ({type(error).__name__}: {error}). Where the package amdsmi is "
            "installed without AMD's library, `pip uninstall amdsmi` helps."
        ) from error
    return ray
