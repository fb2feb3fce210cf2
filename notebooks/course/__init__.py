"""What the notebooks share: figures, checks of exercises, and the numbers of a book."""

from course.book import book
from course.checks import check, same

__all__ = ["book", "check", "same"]
