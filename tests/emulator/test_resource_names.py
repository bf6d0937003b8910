import pytest

from support.rig import LOCATION, QUEUE, refusal
from traced_relay.emulator import messages as m
from traced_relay.emulator import resource_names
from traced_relay.emulator.errors import ApiError

QUEUE_NAME_TEXT = 'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'


@pytest.mark.parametrize(
    "name",
    [QUEUE, "projects/google.com:a-b/locations/us-east1/queues/A-9", f"{LOCATION}/queues/{'q' * 100}"],
)
def test_a_good_queue_name_passes(name: str) -> None:
    resource_names.check_queue(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "q",
        "queues/q",
        f"{LOCATION}/queues/",
        f"{LOCATION}/queues/a_b",
        f"{LOCATION}/queues/{'q' * 101}",
        f"{QUEUE}/",
        f"{QUEUE}\n",
        f"{QUEUE}/tasks/t",
        "projects//locations/l/queues/q",
        "projects/p/queues/q",
    ],
)
def test_a_bad_queue_name_is_refused_with_a_link_to_its_definition(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        resource_names.check_queue(name)

    assert refusal(refused.value) == ("INVALID_ARGUMENT", QUEUE_NAME_TEXT)
    assert [(link.description, link.url) for link in refused.value.help_links] == [
        (
            "Definition of queue name",
            "https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues#Queue.FIELDS.name",
        )
    ]


def test_a_queue_must_be_below_the_location_it_is_made_in() -> None:
    with pytest.raises(ApiError) as refused:
        resource_names.check_queue_in(QUEUE, "projects/p/locations/other")

    assert refusal(refused.value) == ("INVALID_ARGUMENT", f"{QUEUE} must begin with projects/p/locations/other.")


@pytest.mark.parametrize("name", ["", "projects/p", "locations/l", f"{LOCATION}/", QUEUE])
def test_a_bad_location_is_refused(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        resource_names.check_location(name)

    assert refusal(refused.value) == ("INVALID_ARGUMENT", "Invalid resource field value in the request.")


@pytest.mark.parametrize("task_id", ["t", "A-b_9", "0" * 500])
def test_a_good_task_name_falls_into_queue_and_id(task_id: str) -> None:
    assert resource_names.split_task(f"{QUEUE}/tasks/{task_id}") == (QUEUE, task_id)


@pytest.mark.parametrize("task_id", ["", "not a valid id", "a.b", "x" * 501, "a/b", "täsk"])
def test_a_bad_task_id_is_refused_with_a_link_to_its_definition(task_id: str) -> None:
    with pytest.raises(ApiError) as refused:
        resource_names.split_task(f"{QUEUE}/tasks/{task_id}")

    assert refusal(refused.value) == (
        "INVALID_ARGUMENT",
        (
            f'Task ID "{task_id}" can contain only letters ([A-Za-z]), numbers ([0-9]), hyphens (-), '
            "or underscores (_). Task ID must between 1 and 500 characters."
        ),
    )
    assert [link.description for link in refused.value.help_links] == ["Definition of task ID"]


@pytest.mark.parametrize("name", ["", "t", QUEUE, "tasks/t", f"{LOCATION}/queues/a_b/tasks/t"])
def test_what_is_no_task_name_at_all_is_refused(name: str) -> None:
    with pytest.raises(ApiError, match=r"^Task name must be formatted"):
        resource_names.split_task(name)


def test_a_task_must_be_named_after_the_queue_it_goes_to() -> None:
    with pytest.raises(ApiError) as refused:
        resource_names.check_task_in(f"{QUEUE}-other/tasks/t", QUEUE)

    assert refusal(refused.value) == (
        "INVALID_ARGUMENT",
        (
            f"The queue name from request ('{QUEUE}') must be the same as "
            f"the queue name in the named task ('{QUEUE}-other')."
        ),
    )


@pytest.mark.parametrize(
    ("routing", "host"),
    [
        ({}, "p.appspot.com"),
        ({"service": "s"}, "s.p.appspot.com"),
        ({"service": "s", "version": "v"}, "v.s.p.appspot.com"),
        ({"service": "s", "version": "v", "instance": "0"}, "0.v.s.p.appspot.com"),
    ],
)
def test_the_app_engine_host_is_made_from_the_routing(routing: dict[str, str], host: str) -> None:
    assert resource_names.app_engine_host(m.AppEngineRouting(**routing), QUEUE) == host
