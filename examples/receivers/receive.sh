#!/bin/sh
# A receiver without a server. It waits for the end of a watch, fetches the event as a receiver gets it (the same bytes
# and headers, signed now), verifies it and prints it. It needs curl and openssl.
#
#   BRIDGE_URL=http://127.0.0.1:8080 WEBHOOK_SECRET=whsec_... sh receive.sh wat_...
#
# If the bridge has tokens, set BRIDGE_TOKEN as well.
set -eu
watch=${1:?"usage: receive.sh WATCH_ID"}
bridge=${BRIDGE_URL:-http://127.0.0.1:8080}
seen=${SEEN_DIR:-seen}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The token is passed in a file, because other users can see the arguments of a command.
printf 'header = "Authorization: Bearer %s"\n' "${BRIDGE_TOKEN:-none}" > "$work/curlrc"

# 409 (watch_active) means "not yet": wait up to a minute at a time.
while :; do
  status=$(curl -sS -K "$work/curlrc" -o "$work/body" -D "$work/headers" -w '%{http_code}' "$bridge/watch/$watch/envelope")
  case $status in
    200) break ;;
    409) curl -sS -K "$work/curlrc" -o "$work/watch" "$bridge/watch/$watch?wait_seconds=60"
         ! grep -q '"state": *"cancelled"' "$work/watch" || { echo "cancelled: there is no event" >&2; exit 1; } ;;
    *) cat "$work/body" >&2; exit 1 ;;
  esac
done

header() { tr -d '\r' < "$work/headers" | sed -n "s/^$1: //Ip"; }
id=$(header webhook-id) timestamp=$(header webhook-timestamp) signatures=$(header webhook-signature)

# The signature is HMAC-SHA256 of "id.timestamp.body", one "v1,<base64>" for each secret, separated by spaces.
key=$(printf %s "${WEBHOOK_SECRET#whsec_}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
expected=$({ printf %s "$id.$timestamp."; cat "$work/body"; } |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)
age=$(($(date +%s) - timestamp))
case " $signatures " in *" v1,$expected "*) ;; *) echo "not verified" >&2; exit 1 ;; esac
[ "$age" -lt 300 ] && [ "$age" -gt -300 ] || { echo "too old, or a clock is wrong" >&2; exit 1; }

# One folder for each event. mkdir fails if the folder exists, so an event is handled once.
mkdir -p "$seen"
mkdir "$seen/$id" 2> /dev/null || { echo "$id: seen already" >&2; exit 0; }
cat "$work/headers" >&2
cat "$work/body"
echo
