#!/usr/bin/env bash
# Deploys the relay to App Engine as a new version, moves the traffic to it, and deploys cron.yaml. It stops no other
# version, since a call may run for a day; it prints what the old versions still run, and how to stop them.
set -euo pipefail
cd "$(dirname "$0")"

usage="usage: $0 --project P [--version V] [--no-promote] [--dry-run]"
project=${GOOGLE_CLOUD_PROJECT:-} version='' promote=yes dry_run=''
while (($#)); do
  case $1 in
    --project | --version)
      [[ -n ${2:-} && $2 != -* ]] || {
        echo "$1 requires a value; $usage" >&2
        exit 2
      }
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --no-promote) promote='' && shift ;;
    --dry-run) dry_run=yes && shift ;;
    -h | --help) echo "$usage" && exit ;;
    *) echo "unknown option: $1; $usage" >&2 && exit 2 ;;
  esac
done

# shellcheck source=cloud.sh
source cloud.sh
prepare
[[ -z $(planned invoker) ]] || die "relay.yaml: worker is a URL, not an App Engine service; for Cloud Run see docs/operations.md"
version=${version:-v$(date -u +%Y%m%dt%H%M%S)}
[[ $version =~ ^[a-z0-9][a-z0-9-]{0,62}$ ]] || die "--version: must consist of a-z, 0-9 and -, got $version"

# Every direct dependency of pyproject.toml must be locked in a version that it allows.
"$python" - <<'PYTHON' || die "requirements.txt does not satisfy pyproject.toml; run: make lock"
import re, sys, tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
with open("requirements.txt") as file:
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([0-9][^ ;\\]*)", file.read(), re.MULTILINE))
number = lambda text: [int(part) for part in re.findall(r"\d+", text)]
wrong = []
for needed in project["dependencies"] + project["optional-dependencies"]["firestore"]:
    name, least = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?(?:.*?>=\s*([0-9.]+))?", needed).groups()
    found = pinned.get(name.lower())
    if found is None or (least and number(found) < number(least)):
        wrong.append(f"{needed}: {found or 'not'} locked")
sys.exit("\n".join(wrong) or 0)
PYTHON

service=$(planned service)
relay=traced-relay@$project.iam.gserviceaccount.com
query gcloud app describe --format='value(defaultHostname)' || die "the project has no App Engine application; run ./setup-env.sh first"
host=$found
query gcloud app versions list --service "$service" --format='value(version.id,version.servingStatus)' || true
! grep -qx "${version}[[:space:]].*" <<<"$found" || die "version $version exists and may run calls; choose another name"
others=$(sed -n 's/[[:space:]]SERVING$//p' <<<"$found")

# `gcloud app deploy cron.yaml` deletes App Engine's other cron jobs, of every service, and no command of gcloud lists them.
if [[ -n $promote ]]; then
  endpoint=$(gcloud config get api_endpoint_overrides/cloudscheduler 2>/dev/null) || endpoint=
  access=$(gcloud auth print-access-token 2>/dev/null) || access= # to see the cron jobs, not stored
  jobs=${endpoint:-https://cloudscheduler.googleapis.com/}v1beta1/projects/$project/locations/$(planned location)/jobs
  curl -sS --fail-with-body -o "$scratch/jobs" -H @<(echo "Authorization: Bearer $access") \
    "$jobs?legacyAppEngineCron=true&pageSize=500" 2>"$scratch/err" ||
    die "cannot list the deployed cron jobs: $(tail -1 "$scratch/err")"
  deleted=$("$python" -m traced_relay.deploy.cron_yaml <"$scratch/jobs") || die "fix this problem first"
  [[ -z $deleted ]] || {
    printf 'cron jobs of this project that cron.yaml lacks:\n%s\n' "$deleted" >&2
    die "a deploy would delete them; add them to cron.yaml, delete them yourself, or use --no-promote"
  }
fi

echo "deploying version $version of service $service to project $project"
change gcloud app deploy app.yaml --version "$version" --service-account "$relay" --no-promote --no-stop-previous-version
# --promote would stop the previous version and its calls. Cron calls the version that has the traffic.
if [[ -n $promote ]]; then
  change gcloud app deploy cron.yaml
  traffic=(gcloud app services set-traffic "$service" --splits "$version=1" --quiet)
  (change "${traffic[@]}") || die "version $version is deployed but has no traffic; move the traffic with: ${traffic[*]} --project $project"
fi

[[ $service == default ]] && url=https://$host || url=https://$service-dot-$host
own=https://$version-dot-${url#https://}
cat <<NEXT

relay:        $url${promote:+ (now served by this version)}
this version: $own
console:      https://console.cloud.google.com/appengine/versions?project=$project&serviceId=$service
              https://console.cloud.google.com/cloudtasks?project=$project
              https://console.cloud.google.com/traces/explorer?project=$project
              https://console.cloud.google.com/logs/query;query=operation.producer%3D%22traced-relay%22?project=$project

Example call by a caller of relay.yaml to a downstream of relay.yaml:
  curl -H "Authorization: Bearer \$(gcloud auth print-identity-token --audiences=$(planned audience) \\
      --include-email --impersonate-service-account=ACCOUNT)" -H 'Content-Type: application/json' \\
    -d '{"url": "https://SERVICE.run.app/"}' $([[ -n $promote ]] && echo "$url" || echo "$own")/v1/tasks
NEXT
[[ -n $others ]] || exit 0

# Only an operator may list running calls; the account that deploys need not be one.
impersonated=$(gcloud config get auth/impersonate_service_account 2>/dev/null) || impersonated=
# The relay requires the e-mail claim; gcloud refuses the option for an account that is not impersonated.
token=$(gcloud auth print-identity-token --audiences="$(planned audience)" ${impersonated:+--include-email} 2>/dev/null) || token=
printf '\nold versions, not stopped because they may run calls:\n'
while read -ru3 other; do
  if [[ -n $token ]] && calls=$("$python" -m traced_relay list --relay "$url" --token-file <(printf %s "$token") \
    --state running --version "$other" --limit 0 2>"$scratch/err"); then
    echo "  $other: $(grep -c . <<<"$calls") running"
    [[ -z $calls ]] || printf '    %s\n' "${calls//$'\n'/$'\n'    }"
  else
    echo "  $other: running calls unknown ($([[ -n $token ]] && tail -1 "$scratch/err" || echo "no ID token of an operator")); list them with"
    echo "    traced-relay list --state running --version $other --relay $url --audience $(planned audience) \\"
    echo "      --impersonate-service-account OPERATOR"
  fi
done 3<<<"$others"
echo "stop a version that runs none: gcloud app versions stop VERSION --service $service --project $project"
