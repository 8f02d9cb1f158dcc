main &
program=$!
# A signal that is trapped ends `wait`, not the program.
again=1
while [ -n "$again" ]; do
    again=
    wait "$program"
    ended=$?
    [ "$ended" -eq 127 ] || code=$ended
done
