#!/usr/bin/env bash
# Creates everything that the relay needs in a Google Cloud project, and updates what differs from the files. A second
# run changes nothing. The script never asks, and writes no key to disk.
set -euo pipefail
cd "$(dirname "$0")"

usage="usage: $0 --project P --region R [--notify EMAIL] [--dry-run]"
project=${GOOGLE_CLOUD_PROJECT:-} region='' notify='' dry_run=''
while (($#)); do
  case $1 in
    --project | --region | --notify)
      [[ -n ${2:-} && $2 != -* ]] || {
        echo "$1 requires a value; $usage" >&2
        exit 2
      }
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --dry-run) dry_run=yes && shift ;;
    -h | --help) echo "$usage" && exit ;;
    *) echo "unknown option: $1; $usage" >&2 && exit 2 ;;
  esac
done

# shellcheck source=cloud.sh
source cloud.sh
[[ -n $region ]] || die "--region is required; $usage"
[[ -z $notify || $notify =~ ^[^@[:space:]\",]+@[^@[:space:]\",]+$ ]] || die "--notify: not an e-mail address: $notify"
prepare

location=$(planned location)
[[ $location == "$region" ]] || die "relay.yaml: location is $location, but --region is $region; both must be the same"
read -r database collection < <(planned ledger)
relay=traced-relay@$project.iam.gserviceaccount.com
secrets=$(planned secret)

worker=$(planned worker)
invoker=$(planned invoker)

cat <<PLAN
Project $project, region $region. Creates what is missing and updates what differs from the files:
  APIs, the account $relay, $([[ -n $invoker ]] && echo "the account $invoker, the Cloud Scheduler job for /sweep" || echo "the App Engine application")
  queues: $(planned queue | cut -d' ' -f1 | paste -sd' ' -)
  Firestore database $database, collection $collection: indexes and TTL policies
  secrets: $(cut -d' ' -f2 <<<"$secrets" | paste -sd' ' -)
  roles of the relay's account on these resources only; log-based metrics, alerts, dashboard${notify:+, mail to $notify}
PLAN

enable_apis() {
  local api missing=() wanted=(cloudbuild cloudresourcemanager cloudscheduler cloudtasks cloudtrace firestore iam logging)
  wanted+=(monitoring secretmanager)
  [[ -n $invoker ]] && wanted+=(artifactregistry run) || wanted+=(appengine)
  query gcloud services list --enabled --format='value(config.name)' || true
  for api in "${wanted[@]}"; do
    grep -qx "$api.googleapis.com" <<<"$found" || missing+=("$api.googleapis.com")
  done
  ((${#missing[@]} == 0)) || change gcloud services enable "${missing[@]}"
}

create_application() {
  # App Engine knows two regions by an older name.
  local zone=$region
  [[ $region == us-central1 || $region == europe-west1 ]] && zone=${region%1}
  if query gcloud app describe --format='value(locationId)'; then
    [[ $found == "$zone" ]] || die "App Engine is in $found and cannot move, so the queues cannot be in $region"
  else
    change gcloud app create --region "$zone"
  fi
}

create_account() {
  query gcloud iam service-accounts describe "$1" --format='value(email)' ||
    change gcloud iam service-accounts create "${1%%@*}" --display-name "$2"
}

# policy_of RESOURCE...: the gcloud command for the policy that `grant` changes, with POLICY in place of the verb.
# $held gets the relay's roles, one a line, each with its condition after a space.
policy_of() {
  subject=("$@")
  query "${subject[@]/POLICY/get-iam-policy}" --flatten 'bindings[].members' \
    --format='value[separator=" "](bindings.role,bindings.condition.expression)' \
    --filter "bindings.members=\"serviceAccount:$relay\"" || true
  held=$found
}

grant() {
  local role=$1 condition=${2:-} line
  line="$role $([[ $condition != *expression=* ]] || echo "${condition#*expression=}")"
  grep -qxF "$line" <<<"$held" || change "${subject[@]/POLICY/add-iam-policy-binding}" \
    --member "serviceAccount:$relay" --role "$role" ${condition:+--condition="$condition"} --format none
}

create_queue() {
  local queue=$1 rate=$2 running=$3 fields wanted_fields
  fields=rateLimits.maxDispatchesPerSecond,rateLimits.maxConcurrentDispatches,retryConfig.maxAttempts
  fields+=,retryConfig.maxRetryDuration,retryConfig.minBackoff,retryConfig.maxBackoff,retryConfig.maxDoublings
  fields+=,stackdriverLoggingConfig.samplingRatio,state
  wanted_fields=$rate,$running,-1,,5s,60s,4,1
  # The relay retries by itself; the queue retries after crashes only, 5, 10, 20, 40, 60, 60 ... seconds apart, without end.
  local settings=(
    --location "$region" --max-dispatches-per-second "$rate" --max-concurrent-dispatches "$running" --max-attempts -1
    --max-retry-duration 0s --min-backoff 5s --max-backoff 60s --max-doublings 4 --log-sampling-ratio 1.0
  )
  if ! query gcloud tasks queues describe "$queue" --location "$region" --format="csv[no-heading]($fields)"; then
    change gcloud tasks queues create "$queue" "${settings[@]}"
  else
    [[ ${found##*,} == RUNNING ]] ||
      echo "  $queue is ${found##*,}; resume it with: gcloud tasks queues resume $queue --location $region"
    [[ $(sed -E 's/,0s,/,,/; s/\.0+(,|$)/\1/g' <<<"${found%,*}") == "$wanted_fields" ]] ||
      change gcloud tasks queues update "$queue" "${settings[@]}"
  fi
  # To create tasks, to delete cancelled ones, and to read tasks and the queue.
  policy_of gcloud tasks queues POLICY "$queue" --location "$region"
  grant roles/cloudtasks.enqueuer
  grant roles/cloudtasks.taskDeleter
  grant roles/cloudtasks.viewer
}

new_secret_value() {
  "$python" -c 'import base64, secrets; print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(), end="")'
}

create_secret() {
  local owner=$1 secret=$2
  [[ $owner == "$project" ]] || {
    echo "  $secret belongs to project $owner; grant $relay the role secretmanager.secretAccessor there"
    return
  }
  query gcloud secrets describe "$secret" --format='value(name)' ||
    change gcloud secrets create "$secret" --replication-policy automatic
  query gcloud secrets versions list "$secret" --filter state=ENABLED --format='value(name)' || true
  # Through a pipe, so that the value is in no file and in no process's arguments.
  [[ -n $found ]] || change gcloud secrets versions add "$secret" --data-file - < <([[ -n $dry_run ]] || new_secret_value)
  policy_of gcloud secrets POLICY "$secret"
  grant roles/secretmanager.secretAccessor
}

create_ledger() {
  local kind group path rest
  if ! query gcloud firestore databases describe --database "$database" --format='value(type)'; then
    change gcloud firestore databases create --database "$database" --location "$region" --type firestore-native
  elif [[ ${found:-FIRESTORE_NATIVE} != FIRESTORE_NATIVE ]]; then
    die "Firestore database $database has type $found, which the ledger cannot use; name another in RELAY_LEDGER"
  fi
  query gcloud firestore indexes composite list --database "$database" --format=json || true
  "$python" -m traced_relay.deploy.diff indexes "$collection" <<<"$found" >"$scratch/indexes"
  while read -ru3 group rest; do
    local fields=()
    for path in $rest; do fields+=(--field-config "$path"); done
    change gcloud firestore indexes composite create --database "$database" --collection-group "$group" \
      "${fields[@]}" --async
  done 3<"$scratch/indexes"
  query gcloud firestore indexes fields list --database "$database" --format=json || true
  "$python" -m traced_relay.deploy.diff fields "$collection" <<<"$found" >"$scratch/fields"
  while read -ru3 kind group path rest; do
    if [[ $kind == ttl ]]; then
      change gcloud firestore fields ttls update "$path" --database "$database" --collection-group "$group" \
        --enable-ttl --async
    else
      local index=--disable-indexes
      [[ -z $rest ]] || index=--index=order=$(tr '[:upper:]' '[:lower:]' <<<"$rest")
      change gcloud firestore indexes fields update "$path" --database "$database" --collection-group "$group" \
        "$index" --async
    fi
  done 3<"$scratch/fields"
}

# sync_files KIND DIRECTORY: create or update what differs, by the functions create_KIND and update_KIND.
sync_files() {
  local kind=$1 folder=$2 what rest
  "$python" -m traced_relay.deploy.diff files "$folder" <<<"$found" >"$scratch/stale"
  # A path may contain spaces, a resource name none.
  while read -ru3 what rest; do
    case $what in
      create) "create_$kind" "$rest" ;;
      update) "update_$kind" "${rest% *}" "${rest##* }" ;;
    esac
  done 3<"$scratch/stale"
}

create_metric() { change gcloud logging metrics create "$(basename "$1" .yaml)" --config-from-file "$1"; }
update_metric() { change gcloud logging metrics update "$(basename "$1" .yaml)" --config-from-file "$1"; }
create_alert() { change "${monitoring[@]}" policies create --policy-from-file "$1"; }
# An update removes what the file lacks, so the current channels are added unless --notify names another.
update_alert() {
  if [[ -z $notify ]]; then
    query "${monitoring[@]}" policies describe "$2" --format='value(notificationChannels.list())'
    [[ -z $found ]] || echo "notificationChannels: [$found]" >>"$1"
  fi
  change "${monitoring[@]}" policies update "$2" --policy-from-file "$1"
}
create_dashboard() { change gcloud monitoring dashboards create --config-from-file "$1"; }
update_dashboard() {
  query gcloud monitoring dashboards describe "$2" --format='value(etag)'
  "$python" -c 'import json, sys
path, name, etag = sys.argv[1:]
with open(path) as file: document = json.load(file)
with open(path, "w") as file: json.dump(document | {"name": name, "etag": etag}, file)' "$1" "$2" "$found"
  change gcloud monitoring dashboards update "$2" --config-from-file "$1"
}

fill_in() {
  local file resource=gae_app queues
  [[ -z $invoker ]] || resource=cloud_run_revision
  queues=$(planned queue | cut -d' ' -f1 | paste -sd'|')
  mkdir -p "$scratch/metrics" "$scratch/alerts" "$scratch/dashboards"
  for file in monitoring/metrics/*.yaml monitoring/alerts/*.yaml monitoring/dashboard.json; do
    local to=${file#monitoring/}
    [[ $file == *.json ]] && to=dashboards/$to
    sed "s/PROJECT_ID/$project/g; s/RESOURCE_TYPE/$resource/g; s/QUEUE_NAMES/$queues/g" "$file" >"$scratch/$to"
  done
}

create_metrics() {
  query gcloud logging metrics list --format=json || true
  sync_files metric "$scratch/metrics"
}

sync_alerts_and_dashboard() {
  # Newer releases have these commands without `alpha`.
  monitoring=(gcloud monitoring)
  gcloud monitoring policies --help >/dev/null 2>&1 || monitoring=(gcloud alpha monitoring)
  [[ -z $notify ]] || find_channel
  query "${monitoring[@]}" policies list --filter 'user_labels.app="traced-relay"' --format=json || true
  sync_files alert "$scratch/alerts"
  query gcloud monitoring dashboards list --format=json || true
  sync_files dashboard "$scratch/dashboards"
}

# Adds the channel of the --notify address to every policy, as the only one.
find_channel() {
  local file list=(gcloud beta monitoring channels list --format='value(name)'
    --filter "type=\"email\" AND labels.email_address=\"$notify\"")
  query "${list[@]}" || true
  if [[ -z $found ]]; then
    change gcloud beta monitoring channels create --type email --display-name "traced-relay: $notify" \
      --channel-labels "email_address=$notify"
    [[ -n $dry_run ]] || query "${list[@]}"
  fi
  found=${found%%$'\n'*} # more may have been created by hand
  for file in "$scratch"/alerts/*; do echo "notificationChannels: [${found:-CHANNEL}]" >>"$file"; done
}

# On Cloud Run Cloud Scheduler requests the sweeps, with the service account of the tasks.
create_sweep() {
  local name=traced-relay-sweep shown=httpTarget.uri,httpTarget.oidcToken.serviceAccountEmail
  shown+=,httpTarget.oidcToken.audience,schedule
  local job=(--location "$region" --schedule '* * * * *' --uri "$worker/sweep" --http-method get
    --oidc-service-account-email "$invoker" --oidc-token-audience "$(planned audience)" --attempt-deadline 60s)
  if ! query gcloud scheduler jobs describe "$name" --location "$region" --format="csv[no-heading]($shown)"; then
    change gcloud scheduler jobs create http "$name" "${job[@]}"
  elif [[ $found != "$worker/sweep,$invoker,$(planned audience),* * * * *" ]]; then
    change gcloud scheduler jobs update http "$name" "${job[@]}"
  fi
}

echo "APIs" && enable_apis
echo "accounts" && create_account "$relay" "traced-relay"
if [[ -n $invoker ]]; then
  create_account "$invoker" "traced-relay: calls the worker"
  # Creating a task with an account's ID token requires the right to act as the account.
  policy_of gcloud iam service-accounts POLICY "$invoker"
  grant roles/iam.serviceAccountUser
else
  echo "App Engine" && create_application
fi
# Early, because Google refuses an alert until its metric has existed for a while.
echo "metrics" && fill_in && create_metrics
echo "queues"
while read -ru4 queue rate running; do create_queue "$queue" "$rate" "$running"; done 4< <(planned queue)
echo "secrets"
while read -ru4 owner secret; do create_secret "$owner" "$secret"; done 4< <(planned secret)
echo "ledger" && create_ledger
echo "project roles"
policy_of gcloud projects POLICY "$project"
# Firestore has no policy per database; a condition on its name has the same effect.
grant roles/datastore.user \
  "title=traced-relay-ledger,expression=resource.name==\"projects/$project/databases/$database\""
grant roles/cloudtrace.agent None  # spans
grant roles/logging.logWriter None # records
echo "alerts and dashboard" && sync_alerts_and_dashboard
[[ -z $invoker ]] || { echo "sweep" && create_sweep; }

if ((changes)); then
  echo "${dry_run:+dry run: nothing was changed; }$changes changes${dry_run:+ would be made}"
else
  echo "everything is up to date; nothing was changed"
fi
if [[ -n $invoker ]]; then
  echo "next: deploy to Cloud Run; see docs/operations.md"
else
  echo "next: ./deploy.sh --project $project"
fi
