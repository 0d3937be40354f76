from router.journey.work_ids import WorkIds, choice_names


def test_an_id_that_comes_again_gets_another_name_and_the_last_is_remembered() -> None:
    names = WorkIds("me")
    first, second = names.begin("acme/r"), names.begin("acme/r")
    assert first != second
    assert names.find("acme/r") == second
    assert names.find("r") is None
    assert {names.to_public(first), names.to_public(second)} == {"acme/r"}
    assert [names.to_public(name) for name in choice_names(second, 2)] == ["acme/r#0", "acme/r#1"]
    assert choice_names(second, 1) == [second]


def test_another_router_s_names_stay_whole() -> None:
    assert WorkIds("me").to_public(WorkIds("other").begin("r")) == "other/0/r"


def test_old_names_are_forgotten() -> None:
    names = WorkIds("me")
    for number in range(5000):
        names.begin(f"r{number}")
    assert len(names._latest) == 4096
    assert names.find("r0") is None
    assert names.find("r4999") == "me/4999/r4999"


def test_an_id_that_came_again_is_as_young_as_its_last_name() -> None:
    names = WorkIds("me")
    for number in range(4096):
        names.begin(f"r{number}")
    again = names.begin("r0")
    names.begin("new")
    assert (names.find("r0"), names.find("r1")) == (again, None)
