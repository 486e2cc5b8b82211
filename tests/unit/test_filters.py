import pytest

from plugin_sdk import errors, filters

LABELS = {"foo": "bar", "a.b/c": "1", "a.b": "2", "quoted": 'aa|b"c/d\\e', "empty": "", "umlaut": "é ü"}


def adaptor(path: filters.Path) -> str | None:
    if tuple(path) == ("name",):
        return "docker.io/library/busybox:latest"
    return filters.join(path, "labels", LABELS)


def matches(*texts: str) -> bool:
    return filters.compile(texts)(adaptor)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        " name",
        "name==docker.io/library/busybox:latest",
        "name == docker.io/library/busybox:latest",
        "name!=x",
        "labels.foo",
        'labels."foo"',
        '"labels".foo',
        "labels. foo==bar",
        'labels."a.b/c"==1',
        "labels.a.b==2",
        "labels.foo ==bar",
        "labels.foo== bar",
        "labels.foo\n==bar",
        "labels.foo==bar,name",
        "labels.foo==bar, name",
        "labels.foo,labels.foo==bar",
        'labels.foo=="bar",name',
        'labels.quoted=="aa|b\\"c/d\\\\e"',
        'labels.quoted==aa|b"c/d\\e',
        'labels.umlaut=="é ü"',
        'labels.umlaut=="\\u00e9 \\U000000fc"',
        'labels.foo=="b\\u0061r"',
        'labels.foo=="b\\141r"',
        'labels.foo=="\\x62ar"',
        'labels.empty==""',
        "labels.empty",
        "labels.nope!=x",
        "labels.nope~=|^$|",
        "labels.foo~=||",
        "labels.foo~=^b",
        'labels.foo~="^b"',
        "labels.foo~=|^b|",
        "labels.foo~=/^b/",
        "labels.foo~=|x,|,labels.foo~=|^b|",
        "labels.foo~=|b|,name",
        "labels.foo~=|z\\|a|",
        "labels.foo~=/a\\/?/",
        "labels.foo~=\\w",
        'labels.foo~="\\\\w"',
        "labels.foo~=|\\x62|",
        "labels.foo~=|\\\\bbar\\\\b|",
    ],
)
def test_the_filter_is_understood(text: str) -> None:
    expected = text != "labels.foo~=|x,|,labels.foo~=|^b|"
    assert matches(text) is expected


@pytest.mark.parametrize(
    "text",
    [
        "nosuch",
        "9",
        "_a",
        "labels",
        "labels==x",
        "labels.nope==x",
        'labels.nope==""',
        "labels.foo!=bar",
        "labels.foo==b.r",
        "labels.foo==b=r",
        "labels.foo==bar;x",
        "labels.foo=='bar'",
        "labels.foo==bar,labels.foo==baz",
        "labels.foo~=^r",
        "name.x",
    ],
)
def test_the_filter_does_not_match(text: str) -> None:
    assert not matches(text)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        (" ", 1),
        (",name", 0),
        ("name,", 5),
        ("name ", 5),
        ("name==x ", 7),
        ("name==x , name", 7),
        ("name=x", 4),
        ("name===x", 4),
        ("name!x", 4),
        ("name~ =x", 4),
        ("name==", 6),
        ("name==,x", 6),
        ("name==.x", 6),
        ("name==/x/", 6),
        ("name==|x|", 6),
        ("name==/x", 6),
        ('name=="x', 6),
        ('name=="x"y', 9),
        ('name=="\nx"', 6),
        ('name=="\\q"', 7),
        ('name=="\\', 7),
        ('name=="\\400"', 7),
        ('name=="\\19"', 7),
        ('name=="\\ud800"', 7),
        ('name=="\\x4"', 7),
        ("name~=|\\w|", 7),
        ('name~="\\/"', 7),
        ('name~=|\\"|', 7),
        ("name~=|\\'|", 7),
        ("name~=|(|", 6),
        ("name~=[", 6),
        ("labels..foo", 7),
        ("labels.|foo|", 7),
        ("labels .foo==bar", 7),
        ("a-b==c", 1),
    ],
)
def test_a_malformed_filter_is_refused_with_its_position(text: str, position: int) -> None:
    with pytest.raises(errors.InvalidArgument, match=f"position {position}: "):
        filters.compile([text])


def test_one_of_the_list_is_enough() -> None:
    assert matches("nosuch", "labels.foo==bar")
    assert not matches("nosuch", "labels.foo==baz")


def test_without_filters_everything_matches() -> None:
    assert matches()
    assert matches("nosuch", "")


def test_a_bad_filter_among_good_ones_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="'name='"):
        filters.compile(["name", "name="])


def test_an_empty_field_may_count_as_absent() -> None:
    assert filters.field("") is None
    assert filters.field("x") == "x"


def finds(pattern: str, text: str) -> bool:
    quoted = pattern.replace("\\", "\\\\").replace('"', '\\"')
    return filters.compile([f'name~="{quoted}"'])(lambda path: text)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"\Aabc\z", "abc", True),
        ("c$", "abc\n", False),
        ("(?i)BUSYBOX", "docker.io/library/busybox", True),
        (r"\pL{4}", "café", True),
        (r"^\d$", "٣", False),
        ("(?U)a+", "aa", True),
    ],
)
def test_a_pattern_is_one_of_re2(pattern: str, text: str, expected: bool) -> None:
    assert finds(pattern, text) is expected


@pytest.mark.parametrize("pattern", ["(", "a**", r"(a)\1", "(?=a)", "(?!a)", "a{1001}", "[b-a]", "(" * 5000])
def test_a_pattern_that_re2_does_not_know_is_refused(pattern: str) -> None:
    with pytest.raises(errors.InvalidArgument, match="error parsing regexp"):
        finds(pattern, "a")


@pytest.mark.timeout(120)
def test_a_search_that_would_backtrack_for_ever_ends() -> None:
    assert not finds(r"^(\w+)+$", "a" * 4000 + "!")
