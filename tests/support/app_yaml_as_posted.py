"""Run by gcloud's own Python: what `gcloud app deploy` makes of each app.yaml that is named, or why it refuses it."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(sdk: Path, *files: str) -> None:
    sys.path[:0] = [str(sdk / "lib"), str(sdk / "lib" / "third_party")]
    from googlecloudsdk.api_lib.app import yaml_parsing
    from googlecloudsdk.appengine.admin.tools.conversion import convert_yaml

    parser = convert_yaml.GetSchemaParser("v1")
    for file in files:
        try:
            read = yaml_parsing.ServiceYamlInfo.FromFile(file)
            answer = {"service": read.module, "posted": parser.ConvertValue(read.parsed.ToDict())}
        except (yaml_parsing.Error, ValueError) as exc:
            answer = {"refused": str(exc)}
        print(json.dumps(answer))  # noqa: T201  (what it is for)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
