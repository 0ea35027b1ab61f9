"""The profiles: formats in which suppliers, collectors and portals export half-hours."""

from typing import Final

from app.imports.profiles.layouts import MPAN, Days, Names, Profile, Rows, Series

_SERIALS: Final[Names] = (
    "serialnumber",
    "meterserialnumber",
    "meterserial",
    "serial",
    "msn",
    "meterid",
    "meternumber",
)
_DATES: Final[Names] = (
    "date", "readdate", "readingdate", "rdate", "day", "consumptiondate", "settlementdate",
    "settdate", "dateutc", "readdateutc", "dategmt",
)  # fmt: skip
_QUANTITIES: Final[Names] = (
    "measurementquantity", "measurementquantityid", "mq", "datatype", "consumptioncategory", "category",
    "quantity",
    "channel", "meterreadtype", "type", "readtype",
)  # fmt: skip
_UNITS: Final[Names] = ("units", "unit", "meterunits", "reportingunit", "uom", "unitofmeasure")
_FLAGS: Final[Names] = (
    "quality",
    "actualorestimate",
    "estimated",
    "est",
    "estimate",
    "status",
    "flag",
    "readingtype",
)

GENERIC: Final = ("rows", "days")
"""Profiles that take what no other fits."""

D0036: Final = Profile(
    "d0036",
    "D0036, the industry's flow of half-hourly advances: pipes, a 101 line per MPAN and quantity, a 102 per "
    "day, a 103 per "
    "half-hour in kWh with A or E. Settlement periods in UK local time. AI is import, AE export; reactive "
    "energy is left out.",
    "101|2499999999991|AI|SUPP|",
    "it begins with ZHV|",
)
NEM12: Final = Profile(
    "nem12",
    "NEM12, Australia's interval file: 200 lines name a meter (NMI, matched with a serial number) and a "
    "register (E is import, "
    "B export), 300 lines hold a day of 5, 15 or 30 minutes. Market time, UTC+10 all year.",
    "200,2499999999991,E1B1,1,E1,N1,01009,kWh,30,",
    "it begins with 100,NEM12",
)
GREEN_BUTTON: Final = Profile(
    "green-button",
    "Green Button, the ESPI Atom feed in XML: interval blocks of half-hours or parts of them in Wh or m³, "
    "with epoch seconds. "
    "Flow direction 1 is import, 19 export.",
    "<timePeriod><duration>1800</duration><start>1709251200</start></timePeriod><value>187</value>",
    "it is XML with IntervalBlock elements",
)

TABLES: Final = (
    Profile(
        "voltwire",
        "The columns of POST /readings: meter_id or meter_number, start_at with an offset, consumption in "
        "kWh, and quality and "
        "channel if you have them.",
        "2499999999991,2026-03-01T00:00:00Z,0.187,ACTUAL",
        "it has start_at and consumption",
        (
            Rows(
                meter=("meterid", "meternumber"), stamp=("startat",), value=("consumption",), row_flag=("quality",),
                quantity=("channel",), zone=None,
            ),
        ),
    ),
    Profile(
        "octopus",
        "Octopus Energy's download: consumption, start and end with offsets, no meter (give one by meter or "
        "customerId, or in "
        "the file's name). With the columns of costs, half-hours left out of a day are zero.",
        "0.187, 2026-05-25T22:30:00+01:00, 2026-05-25T23:00:00+01:00",
        "it has Consumption, Start and End",
        (
            Rows(
                stamp=("start",), value=("consumptionkwh", "consumptionm3"), zone=None,
                needs=(("end",), ("estimatedcostinctaxp", "standingchargeinctaxp")), zero_by_absence=True,
            ),
            Rows(stamp=("start",), value=("consumptionkwh", "consumptionm3"), zone=None, needs=(("end",),)),
        ),
    ),
    Profile(
        "edf",
        "EDF: a row per day in UTC, Total kWh, then 00:00 to 23:30 with a Type (A or E) after each.",
        "2499999999991,01/03/2026,9.1,0.187,A,0.2,A,…",
        "it has Date (UTC) and a Type after each half-hour",
        (
            Days(
                meter=MPAN, date=("dateutc",), needs=(("totalkwh",),), zone="utc",
                values=Series("clock", flags="between", from_start=True),
            ),
        ),
    ),
    Profile(
        "british-gas",
        "British Gas: meter_identifier, serial_number, read_date and hh01 to hh48; or the portal's 00:30 to "
        "24:00 with Meter Read "
        "Type (rows of reactive energy, RI and RE, are left out). UK local days.",
        "2499999999991,E10BG12345,2026-03-01,0.187,…",
        "it has meter_identifier and hh01 to hh48, or Meter Read Type and File Received At",
        (
            Days(meter=("meteridentifier",), date=("readdate",), values=Series("hh"), needs=(("serialnumber",),)),
            Days(
                meter=(*MPAN, "meteridentifier"), date=_DATES, quantity=("meterreadtype",), zone="london",
                needs=(("meterreadtype",), ("filereceivedat",)), values=Series("clock", from_start=False),
            ),
        ),
    ),
    Profile(
        "drax",
        "Drax: MPAN, Date, HH1 to HH50, Total, then HH1 to HH50 again with the flags (A or E). Settlement "
        "periods of the UK day.",
        "2499999999991,01/03/2026,0.187,…,9.1,A,…",
        "it has HH1 to HH50 twice",
        (Days(meter=MPAN, date=("date",), needs=(("total",),), values=Series("hh", flags="hh")),),
    ),
    Profile(
        "npower",
        "Npower and E.ON: mpan, rdate, totals and Kwh1 to Kwh48 with a status per row; or the weekly MPAN, "
        "DATE, 30, 100 to 2400. "
        "UK local days.",
        "2499999999991,2026-03-01,9.1,0.9,A,0.187,…",
        "it has rdate and Kwh1 to Kwh48, or DATE and 30 to 2400",
        (
            Days(
                meter=MPAN, date=("rdate",), row_flag=("colstatuskwh",), values=Series("kwh"),
            ),
            Days(meter=MPAN, date=("date",), zone="london", values=Series("hhmm", from_start=False)),
        ),
    ),
    Profile(
        "imserv",
        "IMServ: Site Id (the MPAN), Meter Number, Data Type, Reading Date, then 00:30 to 24:00 with a DQ "
        "Flag after each. UK local "
        "days; reactive data types are left out.",
        "2499999999991,E10BG12345,kWh,01/03/2026,0.187,A,…",
        "it has Site Id, Data Type and a DQ Flag after each half-hour",
        (
            Days(
                meter=("siteid",), date=("readingdate",), quantity=("datatype",), needs=(("datatype",),), zone="london",
                values=Series("clock", flags="between"),
            ),
        ),
    ),
    Profile(
        "stark",
        "Stark and SmartestEnergy: seven to nine lines before the header, MPAN, Meter ID, Type (AI is "
        "import, AE export), Est, Date "
        "and 00:30 to 00:00. UK local days.",
        "2499999999991,E10BG12345,AI,A,01/03/2026,0.187,…",
        "it has Meter ID, Type and Est before 00:30 to 00:00",
        (
            Days(
                meter=MPAN, date=("date",), row_flag=("est",), quantity=("type",),
                needs=(("meterid",), ("type",), ("est",)), zone="london", values=Series("clock", from_start=False),
            ),
        ),
    ),
    Profile(
        "sse",
        "SSE: MPAN, Units, Date and 00:00 to 23:30. Rows in LAG, LEAD or kVArh are left out. UK local days.",
        "2499999999991,kWh,01/03/2026,0.187,…",
        "it has Units before 00:00 to 23:30",
        (
            Days(
                meter=MPAN, date=("date",), unit_column=("units",), needs=(("units",),), zone="london",
                values=Series("clock", from_start=True),
            ),
        ),
    ),
    Profile(
        "perse",
        "Perse: Date, MPAN, MQ (AI is import, AE export), P1 to P50 and UT1 to UT50 (A or E). Settlement "
        "periods of the UK day.",
        "2026-03-01,2499999999991,AI,0.187,…,A,…",
        "it has P1 to P50 and UT1 to UT50",
        (
            Days(
                meter=MPAN, date=("date",), quantity=("mq", "measurementquantity"), values=Series("p", flags="ut"),
            ),
        ),
    ),
    Profile(
        "rows",
        "Any table with a row per reading: a meter, a timestamp (or a date with a time or a settlement "
        "period), and a value. Map "
        "other headers by columns. UTC, unless timezone or an offset says otherwise.",
        'MPAN,Timestamp,kWh / 2499999999991,2026-03-01 00:30,0.187 / '
        'columns={"meter":"MPAN","timestamp":"Timestamp","value":"kWh"}',
        "it has a row per reading",
        (
            Rows(
                meter=(*MPAN, "mprn", "mpr", "mpxn", "meter", "meternumber", "meteridentifier", "siteid", "nmi"),
                serial=_SERIALS,
                stamp=(
                    "timestamp", "datetime", "readdatetime", "readdatetimeutc", "start", "startat",
                    "intervalstart",
                    "starttime", "periodstart", "startdatetime", "timestamputc", "datetimeutc",
                    "readingdatetime",
                    "dateandtime", "utctimestamp", "from", "starttimeutc", "startutc",
                ),
                end=(
                    "end", "endat", "endtime", "intervalend", "periodend", "enddatetime", "to", "intervalendutc",
                    "endutc",
                ),
                date=_DATES,
                time=("time", "readtime", "starttime", "readingtime"),
                period=("period", "settperiod", "settlementperiod", "sp", "hh", "halfhour"),
                value=("kwh", "consumptionkwh", "value", "consumption", "meterread", "reading", "usage", "usagekwh",
                    "energykwh", "energy", "amount", "quantity", "valuekwh", "readingkwh", "importkwh",
                    "kwhimport", "import",
                    "consumptionm3", "m3", "volume", "consumptionwh", "wh", "mwh"),
                row_flag=_FLAGS, unit_column=_UNITS, quantity=_QUANTITIES, zone="utc", meter_is_number=False,
                strict=False,
            ),
        ),
    ),
    Profile(
        "days",
        "Any table with a row per day: a meter, a date, and 48 or 50 half-hours labelled by clock or "
        "number. Map other headers by "
        "columns, a category of rows too. UTC, unless timezone or the date's header says otherwise.",
        'Customer,Category,Date,0:30,…,0:00 / 12,GC,01/03/2026,0.187,… / '
        'columns={"serial":"Customer","channel":"Category","date":"Date"}',
        "it has a row per day",
        (
            Days(
                meter=(*MPAN, "mprn", "mpr", "mpxn", "meter", "meternumber", "meteridentifier", "siteid", "nmi",
                    "customer", "site"),
                serial=_SERIALS, date=_DATES, values=Series("any", flags="any"), row_flag=_FLAGS, unit_column=_UNITS,
                quantity=_QUANTITIES, zone="utc", meter_is_number=False, strict=False,
            ),
        ),
    ),
)  # fmt: skip

PROFILES: Final = (*TABLES[:-2], D0036, NEM12, GREEN_BUTTON, *TABLES[-2:])
