"""The list of the draft's requirements, the marks of the tests, and the report that joins them."""

from collections import Counter

import pytest

from tests.support.requirements import LIST, Requirement, collect, marks, read, report

A_TEST = """
import pytest

@pytest.mark.requirement("R.01.01.01", "R.01.01.03")
@pytest.mark.parametrize("number", [1, 2])
def test_something(number): ...

def test_without(): ...
"""


def test_the_list_is_complete():
    """All 364 requirements stand in it, those whose number the draft used twice (W24) as a and b."""
    requirements = read(LIST.read_text())

    assert len(requirements) == 364
    doubled = [requirement.id for requirement in requirements if requirement.id[-1] in "ab"]
    assert doubled == [f"{id_}{letter}" for id_ in ("R.02.01.03", "R.03.04.06", "R.04.02.05") for letter in "ab"]
    chapters = Counter(requirement.chapter.split()[0] for requirement in requirements)
    assert list(chapters) == [str(number) for number in range(1, 14)]
    assert all(int(requirement.id[2:4]) == int(requirement.chapter.split()[0]) for requirement in requirements)


def test_tests_name_only_requirements_that_exist(request):
    """A mark with a mistyped number would show nothing."""
    known = {requirement.id for requirement in read(LIST.read_text())}

    unknown = [f"{test}: {id_}" for id_, test in marks(request.session.items) if id_ not in known]

    assert not unknown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("R.1.1.1", "not a requirement"), ("R.01.01.01\nR.01.01.01\treason", "twice in the list")],
)
def test_a_broken_list_is_refused(text, complaint):
    """A line that is no requirement, and a requirement that stands there twice."""
    with pytest.raises(ValueError, match=complaint):
        read(text)


def test_marks_are_collected_without_running_the_tests(tmp_path):
    """Each test is named once for each of its requirements, however many parameters it has."""
    (tmp_path / "test_marked.py").write_text(A_TEST)

    tests = collect(tmp_path).tests

    assert {id_: [test.split("::")[1] for test in named] for id_, named in tests.items()} == {
        "R.01.01.01": ["test_something"],
        "R.01.01.03": ["test_something"],
    }


def test_what_cannot_be_collected_is_reported(tmp_path):
    """A test file that does not load is an error, not a file without marks."""
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name")

    with pytest.raises(RuntimeError, match="nothing_of_this_name"):
        collect(tmp_path)


REQUIREMENTS = [
    Requirement("R.01.01.01", "1 Registration"),
    Requirement("R.01.01.02", "1 Registration", "a phone call"),
    Requirement("R.01.01.03", "1 Registration"),
    Requirement("R.02.01.03a", "2 Addressing"),
]
TESTS = {"R.01.01.01": [f"tests/unit/test_a.py::test_{number}" for number in range(4)]}


def test_the_report_says_how_each_requirement_stands():
    """Shown by which tests, not yet, or why not; counted by chapter and altogether."""
    assert report(REQUIREMENTS, TESTS).splitlines() == [
        "1 Registration: 1 shown, 1 cannot be shown by a program, 1 not yet",
        "",
        "  R.01.01.01  unit/test_a.py::test_0",
        "              unit/test_a.py::test_1  and 2 more",
        "  R.01.01.02  — a phone call",
        "  R.01.01.03  not yet",
        "",
        "2 Addressing: 1 not yet",
        "",
        "  R.02.01.03a not yet",
        "",
        "4 requirements: 1 shown, 1 cannot be shown by a program, 2 not yet",
    ]


def test_the_report_can_be_narrowed():
    """To what is open, and to a chapter."""
    assert report(REQUIREMENTS, TESTS, only="R.01", only_open=True).splitlines() == [
        "1 Registration: 1 shown, 1 cannot be shown by a program, 1 not yet",
        "",
        "  R.01.01.03  not yet",
        "",
        "3 requirements: 1 shown, 1 cannot be shown by a program, 1 not yet",
    ]
