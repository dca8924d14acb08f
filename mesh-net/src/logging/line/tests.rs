use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn of_value(form: Form, write: impl FnOnce(&mut Line<'_>)) -> String {
    let mut written = Vec::new();
    let mut line = Line::begin(&mut written, form, &mut Clock::default(), UNIX_EPOCH, "access", "done");
    write(&mut line);
    line.end();
    String::from_utf8(written).unwrap()
}

#[test]
fn the_clock_goes_on() {
    let mut clock = Clock::default();
    for (at, text) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_795_333_516_000_001, "2026-11-22T07:45:16.000001Z"),
        (1_795_333_516_999_999, "2026-11-22T07:45:16.999999Z"),
        (1_795_333_517_000_000, "2026-11-22T07:45:17.000000Z"),
        (951_782_400_000_010, "2000-02-29T00:00:00.000010Z"),
    ] {
        let mut written = Vec::new();
        clock.append(UNIX_EPOCH + Duration::from_micros(at), &mut written);
        assert_eq!(String::from_utf8(written).unwrap(), text);
    }
}

proptest! {
    #[test]
    fn values_are_written_as_the_log_writes_them(text in ".{1,9}", number: u64, flag: bool, at: SocketAddr) {
        let all = |line: &mut Line<'_>| {
            line.text(log_field!("text"), &text);
            line.number(log_field!("number"), number);
            line.flag(log_field!("flag"), flag);
            line.quoted(log_field!("from"), at);
            line.shown(log_field!("to"), at);
        };
        let read: serde_json::Value = serde_json::from_str(&of_value(Form::Json, all)).unwrap();
        prop_assert_eq!(
            read,
            serde_json::json!({
                "timestamp": "1970-01-01T00:00:00.000000Z", "level": "INFO", "message": "done", "text": text,
                "number": number, "flag": flag, "from": at.to_string(), "to": at.to_string(), "target": "access",
            })
        );
        prop_assert_eq!(
            of_value(Form::Text, all),
            format!(
                "1970-01-01T00:00:00.000000Z  INFO access: done text={text:?} number={number} flag={flag} from=\"{at}\" to={at}\n"
            )
        );
    }
}
