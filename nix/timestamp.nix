# Seconds since 1970 as snapshot.debian.org writes a time, such as 20261120T044430Z (the days by Howard Hinnant's
# civil_from_days).
seconds: let
  days = seconds / 86400 + 719468;
  rest = seconds - (seconds / 86400) * 86400;
  mod = a: b: a - (a / b) * b;
  era = days / 146097;
  dayOfEra = days - era * 146097;
  yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146096) / 365;
  dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
  shifted = (5 * dayOfYear + 2) / 153;
  day = dayOfYear - (153 * shifted + 2) / 5 + 1;
  month =
    if shifted < 10
    then shifted + 3
    else shifted - 9;
  year =
    yearOfEra
    + era * 400
    + (
      if month <= 2
      then 1
      else 0
    );
  two = number:
    if number < 10
    then "0${toString number}"
    else toString number;
in "${toString year}${two month}${two day}T${two (rest / 3600)}${two (mod (rest / 60) 60)}${two (mod rest 60)}Z"
