"""Which kind of source stands at a path or URL."""

from pathlib import Path

from data_pipelines.sources import Labels, Source, SourceError


def open_source(where: str, labels: Labels = "auto", member: str | None = None, spool: Path | None = None) -> Source:
    """The source at a path or URL. Raises SourceError with one line when there is none that can be used.

    labels: `auto` looks for labels as each source describes, `folders` takes the first-level sub-folders as
    classes, `none` ignores labels. member: which member of a WebDataset sample is the image. spool: a folder for
    copies of what cannot be read in any order where it stands; made when it is needed.
    """
    from data_pipelines.sources.folder import FolderSource

    path = Path(where)
    if not path.exists():
        raise SourceError(f"source {where} does not exist")
    if not path.is_dir():
        raise SourceError(f"source {where} is neither a folder, zip, tar, LMDB, nor CIFAR's or MNIST's files")
    try:
        return FolderSource(path, labels)
    except SourceError as error:
        message = str(error)
        raise SourceError(message if where in message else f"source {where}: {message}") from None
