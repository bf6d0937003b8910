# What setup-env.sh and deploy.sh share: the arguments, the tools they need, and one way to look and one to change.
# shellcheck shell=bash disable=SC2034,SC2154

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# A step that changes something: shown, and left at that in a dry run.
change() {
  changes=$((changes + 1))
  printf '  %s' "${dry_run:+would run: }"
  printf '%q ' "$@"
  printf '\n'
  if [[ -z $dry_run ]]; then
    "$@" >"$scratch/out" 2>"$scratch/err" || {
      cat "$scratch/out" "$scratch/err" >&2
      die "this failed: $*"
    }
  fi
}

# Whether a resource is there; what is found is in $found. Any other failure than its absence ends the script.
look() {
  if found=$("$@" 2>"$scratch/err"); then
    return 0
  fi
  # What Google says of a project that one may not see names both; that is no absence.
  if ! grep -qi 'not found or permission denied' "$scratch/err" &&
    grep -qiE 'NOT_FOUND|not found|does not exist|does not contain an App Engine|SERVICE_DISABLED|has not been used' "$scratch/err"; then
    found=
    return 1
  fi
  cat "$scratch/err" >&2
  die "this failed: $*"
}

prepare() {
  changes=0
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  command -v gcloud >/dev/null || die "gcloud is needed: https://cloud.google.com/sdk/docs/install"
  python=
  local candidate
  for candidate in "${PYTHON:-}" .venv/bin/python python3; do
    if [[ -n $candidate ]] && PYTHONPATH=src "$candidate" -c 'import pydantic, traced_relay, yaml' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  [[ -n $python ]] || die "no Python with the relay's dependencies; run: make setup"
  [[ -n $project ]] || die "--project or GOOGLE_CLOUD_PROJECT is required"
  [[ $project =~ ^[a-z][a-z0-9.:-]{3,98}$ ]] || die "this is no project id: $project"
  export PYTHONPATH=src GOOGLE_CLOUD_PROJECT=$project CLOUDSDK_CORE_PROJECT=$project CLOUDSDK_CORE_DISABLE_PROMPTS=1
  if [[ ${CLOUDSDK_AUTH_DISABLE_CREDENTIALS:-} != true && -z ${CLOUDSDK_AUTH_ACCESS_TOKEN_FILE:-} ]]; then
    look gcloud auth list --filter status:ACTIVE --format='value(account)' || true
    [[ -n $found ]] || die "nobody is logged in; run: gcloud auth login"
  fi
  "$python" -m traced_relay check || die "mend this first"
  "$python" -m traced_relay.deploy.plan "$project" >"$scratch/wanted" || die "mend this first"
}

# The values of one kind of fact, a line each.
wanted() {
  sed -n "s/^$1 //p" "$scratch/wanted"
}
