#!/usr/bin/env bash
# Everything that the relay needs of a Google Cloud project, made if it is missing and set right if it is not as the
# files say. A second run changes nothing. Nothing is asked, and no key is written to disk.
set -euo pipefail
cd "$(dirname "$0")"

usage="usage: $0 --project P --region R [--notify EMAIL] [--dry-run]"
project=${GOOGLE_CLOUD_PROJECT:-} region='' notify='' dry_run=''
while (($#)); do
  case $1 in
    --project | --region | --notify)
      [[ -n ${2:-} && $2 != -* ]] || {
        echo "$1 needs a value; $usage" >&2
        exit 2
      }
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --dry-run) dry_run=yes && shift ;;
    -h | --help) echo "$usage" && exit ;;
    *) echo "unknown: $1; $usage" >&2 && exit 2 ;;
  esac
done

# shellcheck source=cloud.sh
source cloud.sh
[[ -n $region ]] || die "--region is required; $usage"
[[ -z $notify || $notify =~ ^[^@[:space:]\",]+@[^@[:space:]\",]+$ ]] || die "this is no address to tell: $notify"
prepare

location=$(wanted location)
[[ $location == "$region" ]] || die "relay.yaml: location is $location, but --region is $region; queues live in one region"
read -r database collection < <(wanted ledger)
relay=traced-relay@$project.iam.gserviceaccount.com
secrets=$(wanted secret)

worker=$(wanted worker)
invoker=$(wanted invoker)

cat <<PLAN
In project $project, region $region, this makes what is missing and sets right what is not as the files say:
  APIs, the account $relay, $([[ -n $invoker ]] && echo "the account $invoker, the sweep's job" || echo "the App Engine application")
  queues: $(wanted queue | cut -d' ' -f1 | paste -sd' ' -)
  Firestore database $database, collection $collection: indexes and times to live
  secrets: $(cut -d' ' -f2 <<<"$secrets" | paste -sd' ' -)
  rights of the relay's account on these alone; log-based metrics, alerts, dashboard${notify:+, mail to $notify}
PLAN

step() {
  echo "$1"
}

enable_apis() {
  local api missing=() wanted=(cloudbuild cloudresourcemanager cloudscheduler cloudtasks cloudtrace firestore iam logging)
  wanted+=(monitoring secretmanager)
  [[ -n $invoker ]] && wanted+=(artifactregistry run) || wanted+=(appengine)
  look gcloud services list --enabled --format='value(config.name)' || true
  for api in "${wanted[@]}"; do
    grep -qx "$api.googleapis.com" <<<"$found" || missing+=("$api.googleapis.com")
  done
  ((${#missing[@]} == 0)) || change gcloud services enable "${missing[@]}"
}

create_application() {
  # App Engine knows two regions by an older name.
  local zone=$region
  [[ $region == us-central1 || $region == europe-west1 ]] && zone=${region%1}
  if look gcloud app describe --format='value(locationId)'; then
    [[ $found == "$zone" ]] || die "App Engine is in $found for ever, so the queues cannot be in $region"
  else
    change gcloud app create --region "$zone"
  fi
}

create_account() {
  look gcloud iam service-accounts describe "$1" --format='value(email)' ||
    change gcloud iam service-accounts create "${1%%@*}" --display-name "$2"
}

# of RESOURCE...: whose policy `give` is about, as gcloud names it, with POLICY where the verb stands. What is held are
# lines of a role and, after a space, the condition under which it is.
of() {
  subject=("$@")
  look "${subject[@]/POLICY/get-iam-policy}" --flatten 'bindings[].members' \
    --format='value[separator=" "](bindings.role,bindings.condition.expression)' \
    --filter "bindings.members=\"serviceAccount:$relay\"" || true
  held=$found
}

give() {
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
  # The relay retries by itself: these serve crashes, 5, 10, 20, 40, 60, 60 ... seconds apart and without an end.
  local settings=(
    --location "$region" --max-dispatches-per-second "$rate" --max-concurrent-dispatches "$running" --max-attempts -1
    --max-retry-duration 0s --min-backoff 5s --max-backoff 60s --max-doublings 4 --log-sampling-ratio 1.0
  )
  if ! look gcloud tasks queues describe "$queue" --location "$region" --format="csv[no-heading]($fields)"; then
    change gcloud tasks queues create "$queue" "${settings[@]}"
  else
    [[ ${found##*,} == RUNNING ]] ||
      echo "  $queue is ${found##*,}; when it is to go on: gcloud tasks queues resume $queue --location $region"
    [[ $(sed -E 's/,0s,/,,/; s/\.0+(,|$)/\1/g' <<<"${found%,*}") == "$wanted_fields" ]] ||
      change gcloud tasks queues update "$queue" "${settings[@]}"
  fi
  # To create a task, to remove one that is cancelled, and to see whether a task and the queue are there.
  of gcloud tasks queues POLICY "$queue" --location "$region"
  give roles/cloudtasks.enqueuer
  give roles/cloudtasks.taskDeleter
  give roles/cloudtasks.viewer
}

new_secret_value() {
  "$python" -c 'import base64, secrets; print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(), end="")'
}

create_secret() {
  local owner=$1 secret=$2
  [[ $owner == "$project" ]] || {
    echo "  $secret belongs to project $owner: give $relay the role secretmanager.secretAccessor there"
    return
  }
  look gcloud secrets describe "$secret" --format='value(name)' ||
    change gcloud secrets create "$secret" --replication-policy automatic
  look gcloud secrets versions list "$secret" --filter state=ENABLED --format='value(name)' || true
  # By way of a pipe: in no file, and in no process's arguments.
  [[ -n $found ]] || change gcloud secrets versions add "$secret" --data-file - < <([[ -n $dry_run ]] || new_secret_value)
  of gcloud secrets POLICY "$secret"
  give roles/secretmanager.secretAccessor
}

create_ledger() {
  local kind group path rest
  if ! look gcloud firestore databases describe --database "$database" --format='value(type)'; then
    change gcloud firestore databases create --database "$database" --location "$region" --type firestore-native
  elif [[ ${found:-FIRESTORE_NATIVE} != FIRESTORE_NATIVE ]]; then
    die "Firestore's database $database is in $found, which the ledger cannot use; name another in RELAY_LEDGER"
  fi
  look gcloud firestore indexes composite list --database "$database" --format=json || true
  "$python" -m traced_relay.deploy.diff indexes "$collection" <<<"$found" >"$scratch/indexes"
  while read -ru3 group rest; do
    local fields=()
    for path in $rest; do fields+=(--field-config "$path"); done
    change gcloud firestore indexes composite create --database "$database" --collection-group "$group" \
      "${fields[@]}" --async
  done 3<"$scratch/indexes"
  look gcloud firestore indexes fields list --database "$database" --format=json || true
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

# each KIND DIRECTORY: create or update what differs; `create` and `update` are functions of that kind.
each() {
  local kind=$1 folder=$2 what rest
  "$python" -m traced_relay.deploy.diff files "$folder" <<<"$found" >"$scratch/stale"
  # A path may hold spaces, the name of what is there none.
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
# What is not in the file is taken away: so the channels that it has go in, unless others are wanted.
update_alert() {
  if [[ -z $notify ]]; then
    look "${monitoring[@]}" policies describe "$2" --format='value(notificationChannels.list())'
    [[ -z $found ]] || echo "notificationChannels: [$found]" >>"$1"
  fi
  change "${monitoring[@]}" policies update "$2" --policy-from-file "$1"
}
create_dashboard() { change gcloud monitoring dashboards create --config-from-file "$1"; }
update_dashboard() {
  look gcloud monitoring dashboards describe "$2" --format='value(etag)'
  "$python" -c 'import json, sys
path, name, etag = sys.argv[1:]
with open(path) as file: document = json.load(file)
with open(path, "w") as file: json.dump(document | {"name": name, "etag": etag}, file)' "$1" "$2" "$found"
  change gcloud monitoring dashboards update "$2" --config-from-file "$1"
}

fill_in() {
  local file resource=gae_app queues
  [[ -z $invoker ]] || resource=cloud_run_revision
  queues=$(wanted queue | cut -d' ' -f1 | paste -sd'|')
  mkdir -p "$scratch/metrics" "$scratch/alerts" "$scratch/dashboards"
  for file in monitoring/metrics/*.yaml monitoring/alerts/*.yaml monitoring/dashboard.json; do
    local to=${file#monitoring/}
    [[ $file == *.json ]] && to=dashboards/$to
    sed "s/PROJECT_ID/$project/g; s/RESOURCE_TYPE/$resource/g; s/QUEUE_NAMES/$queues/g" "$file" >"$scratch/$to"
  done
}

create_metrics() {
  look gcloud logging metrics list --format=json || true
  each metric "$scratch/metrics"
}

watch_over_it() {
  # Newer releases have these commands without `alpha`.
  monitoring=(gcloud monitoring)
  gcloud monitoring policies --help >/dev/null 2>&1 || monitoring=(gcloud alpha monitoring)
  [[ -z $notify ]] || find_channel
  look "${monitoring[@]}" policies list --filter 'user_labels.app="traced-relay"' --format=json || true
  each alert "$scratch/alerts"
  look gcloud monitoring dashboards list --format=json || true
  each dashboard "$scratch/dashboards"
}

# Every policy is to tell this address, and no other channel.
find_channel() {
  local file list=(gcloud beta monitoring channels list --format='value(name)'
    --filter "type=\"email\" AND labels.email_address=\"$notify\"")
  look "${list[@]}" || true
  if [[ -z $found ]]; then
    change gcloud beta monitoring channels create --type email --display-name "traced-relay: $notify" \
      --channel-labels "email_address=$notify"
    [[ -n $dry_run ]] || look "${list[@]}"
  fi
  found=${found%%$'\n'*} # somebody may have made more than one by hand
  for file in "$scratch"/alerts/*; do echo "notificationChannels: [${found:-CHANNEL}]" >>"$file"; done
}

# On Cloud Run nobody else asks for a sweep: Cloud Scheduler does, as the account that the tasks come as.
create_sweep() {
  local name=traced-relay-sweep shown=httpTarget.uri,httpTarget.oidcToken.serviceAccountEmail
  shown+=,httpTarget.oidcToken.audience,schedule
  local job=(--location "$region" --schedule '* * * * *' --uri "$worker/sweep" --http-method get
    --oidc-service-account-email "$invoker" --oidc-token-audience "$(wanted audience)" --attempt-deadline 60s)
  if ! look gcloud scheduler jobs describe "$name" --location "$region" --format="csv[no-heading]($shown)"; then
    change gcloud scheduler jobs create http "$name" "${job[@]}"
  elif [[ $found != "$worker/sweep,$invoker,$(wanted audience),* * * * *" ]]; then
    change gcloud scheduler jobs update http "$name" "${job[@]}"
  fi
}

step "APIs" && enable_apis
step "accounts" && create_account "$relay" "traced-relay"
if [[ -n $invoker ]]; then
  create_account "$invoker" "traced-relay: calls the worker"
  # Who makes a task that carries an account's ID token has to be allowed to act as it.
  of gcloud iam service-accounts POLICY "$invoker"
  give roles/iam.serviceAccountUser
else
  step "App Engine" && create_application
fi
# Early, since an alert is refused until its metric has been known for a while.
step "metrics" && fill_in && create_metrics
step "queues"
while read -ru4 queue rate running; do create_queue "$queue" "$rate" "$running"; done 4< <(wanted queue)
step "secrets"
while read -ru4 owner secret; do create_secret "$owner" "$secret"; done 4< <(wanted secret)
step "ledger" && create_ledger
step "rights in the project"
of gcloud projects POLICY "$project"
# Firestore has no policy per database; a condition on its name does the same.
give roles/datastore.user \
  "title=traced-relay-ledger,expression=resource.name==\"projects/$project/databases/$database\""
give roles/cloudtrace.agent None  # spans
give roles/logging.logWriter None # records
step "alerts and dashboard" && watch_over_it
[[ -z $invoker ]] || { step "sweep" && create_sweep; }

if ((changes)); then
  echo "${dry_run:+dry run: nothing was changed; }$changes changes${dry_run:+ would be made}"
else
  echo "everything is there; nothing was changed"
fi
if [[ -n $invoker ]]; then
  echo "next: deploy to Cloud Run, as docs/operations.md says"
else
  echo "next: ./deploy.sh --project $project"
fi
