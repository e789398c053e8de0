import pytest

from lab.errors import MissingError, ParameterError, PathError
from lab.tenants import Tenant, contained, find_root, known_tenants


@pytest.mark.parametrize("slug", ["medical", "a", "a-b_c9", "a" * 63])
def test_a_good_slug_is_taken(slug, tmp_path):
    assert Tenant(slug, tmp_path).reports == tmp_path / "reports" / slug


@pytest.mark.parametrize(
    "slug", ["", "..", "a/b", "A", "1a", "a b", "a" * 64, "../x", "医疗", "a\n"]
)
def test_a_slug_that_could_lead_elsewhere_is_refused(slug, tmp_path):
    with pytest.raises(ParameterError, match="tenant's name"):
        Tenant(slug, tmp_path)


@pytest.mark.parametrize(
    "relative", ["images/a.jpg", "a.jpg", "图片/连衣裙.jpg", "a/./b.jpg", "a..b.jpg"]
)
def test_a_path_inside_is_taken(relative, tmp_path):
    assert contained(tmp_path, relative).is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("relative", "rule"),
    [
        ("/etc/passwd", "relative"),
        ("../other/a.jpg", r"\.\."),
        ("images/../../x", r"\.\."),
        ("https://example.com/a.jpg", "URL"),
        ("file:a.jpg", "URL"),
        ("C:/a.jpg", "drive"),
        ("//host/share", "URL"),
        ("a\\b.jpg", "must use /"),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("", "must be a path"),
        ("  ", "must be a path"),
        ("\ud800.jpg", "Unicode"),
        ("a" * 300, "255"),
        ("a/" * 4000 + "b", "at most 1000 bytes"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(relative, rule, tmp_path):
    with pytest.raises(PathError, match=rule):
        contained(tmp_path, relative)


def test_a_link_is_refused_wherever_it_stands_in_the_path(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "real" / "a.jpg")
    for relative in ("linked/a.jpg", "b.jpg"):
        with pytest.raises(PathError, match="symbolic link"):
            contained(tmp_path, relative)


def test_the_root_is_found_from_a_folder_below(root, monkeypatch):
    monkeypatch.delenv("LAB_ROOT", raising=False)
    assert find_root(root / "notebooks") == root
    assert known_tenants(root) == ["ecommerce", "education", "medical"]


def test_lab_root_wins_and_must_be_right(root, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_ROOT", str(root))
    assert find_root(tmp_path) == root
    monkeypatch.setenv("LAB_ROOT", str(tmp_path))
    with pytest.raises(MissingError, match="project folder"):
        find_root(root)
