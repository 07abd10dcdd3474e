use super::*;

#[test]
fn every_profile_shipped_can_be_and_survives_the_order() {
    let profiles = all(None).unwrap();
    assert!(profiles.len() >= 6);
    for (name, profile) in profiles {
        assert!(!profile.description.is_empty(), "{name}");
        let text = serde_json::to_string(&profile).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&text).unwrap(), profile, "{name}");
        let most = profile.bits_per_second().unwrap().unwrap_or(0.0);
        assert!(most < 2e9, "{name} asks for {most}");
    }
}

#[test]
fn rates_are_what_they_say() {
    let of = |text: &str| parse(&format!("[x]\n{text}"), "t").unwrap().remove("x").unwrap();
    let rate = |text: &str| of(text).bits_per_second().unwrap();
    assert_eq!(rate("message = 1000\nrate = \"1000/s\""), Some(8e6));
    assert_eq!(rate("message = 1000\nrate = \"8M\""), Some(8e6));
    assert_eq!(rate("message = 1000\nrate = \"8M\"\nburst = 10"), Some(8e6));
    assert_eq!(rate("message = 1000\nevery = \"10ms\"\nburst = 10"), Some(8e6));
    assert_eq!(rate("message = 1000\nevery = \"10ms\"\ndump = \"10K\""), Some(8e6));
    assert_eq!(rate("message = 1000\nrate = \"max\""), None);
    let half = of("message = 1000\nrate = \"1000/s\"\nscan = 500\npause = \"500ms\"");
    assert!((half.bits_per_second().unwrap().unwrap() - 4e6).abs() < 1.0);
    assert_eq!(half.schedule().unwrap().count(2_000_000_000), Some(1000));
    // A rate given on the command line replaces steps and pauses.
    let changes = Changes { rate: Some(Rate::Max), ..Changes::default() };
    assert_eq!(half.changed(&changes).schedule(), Ok(Schedule::Max));
}

#[test]
fn what_cannot_be_is_refused_with_its_place_and_a_mend() {
    for (text, place, says) in [
        ("message = 1000\nrat = \"1/s\"", "t.toml:4:1", "unknown field `rat`"),
        ("message = 1000", "t.toml:2", "nothing says how fast"),
        ("rate = \"1/s\"", "t.toml:2", "missing field `message`"),
        ("message = 1000\nrate = \"0/s\"", "t.toml:2", "sends nothing"),
        ("message = 1000\nrate = \"0\"", "t.toml:2", "sends nothing"),
        ("message = 1000\nrate = \"-5/s\"", "t.toml:4:8", "is no rate"),
        ("message = 1000\nrate = \"fast\"", "t.toml:4:8", "\"1000/s\""),
        ("message = 1000\nrate = \"1e300/s\"", "t.toml:2", "more than can be counted"),
        ("message = 40\nrate = \"99999999G\"", "t.toml:2", "more than can be counted"),
        ("message = 39\nrate = \"1/s\"", "t.toml:2", "its header takes 40"),
        ("message = \"1Gi\"\nrate = \"1/s\"", "t.toml:2", "out of range"),
        ("message = \"many\"\nrate = \"1/s\"", "t.toml:3", "is not"),
        ("message = -1\nrate = \"1/s\"", "t.toml:3:11", "give a number"),
        ("message = 1000\nrate = \"1/s\"\nevery = \"1s\"", "t.toml:2", "leave one out"),
        ("message = 1000\nrate = \"max\"\nburst = 2", "t.toml:2", "no schedule"),
        ("message = 1000\nevery = \"0s\"", "t.toml:2", "more than 0"),
        ("message = 1000\nrate = \"1/s\"\ndeadline = \"0s\"", "t.toml:2", "deadline must be more"),
        ("message = 1000\nrate = \"1/s\"\nstall = \"soon\"", "t.toml:5:9", "is no time"),
        ("message = 1000\nrate = \"1/s\"\nburst = 0", "t.toml:2", "burst must be"),
        ("message = 1000\nrate = \"1/s\"\ndump = 5000", "t.toml:2", "dump needs every"),
        ("message = 1000\nevery = \"1s\"\ndump = 5500", "t.toml:2", "whole number"),
        ("message = 1000\nevery = \"1s\"\ndump = 5000\nburst = 5", "t.toml:2", "leave one out"),
        ("message = 1000\nrate = \"1/s\"\nscan = 3", "t.toml:2", "need each other"),
        ("message = 1000\nrate = \"1/s\"\nburst = 2\nscan = 3\npause = \"1s\"", "t.toml:2", "whole"),
        ("message = 1000\nrate = \"1/s\"\nconnections = 0", "t.toml:2", "connections must be"),
        ("message = 1000\nrate = \"1/s\"\ndatagram = 10", "t.toml:2", "datagram must be"),
        (
            "message = 1000\nrate = \"1000/s\"\npace = \"7M\"",
            "t.toml:2",
            "pace = 7000000 is less than the 8000000",
        ),
        ("message = 1000\nrate = \"1/s\"\npace = 0", "t.toml:2", "pace = 0 sends nothing"),
        ("message = 1000\nrate = ", "t.toml:4", ""),
    ] {
        let file = format!("# A comment.\n[x]\n{text}");
        let error = parse(&file, "t.toml").unwrap_err().to_string();
        assert!(error.starts_with(place) && error.contains(says), "{text:?}: {error}");
    }
}

#[test]
fn an_unknown_name_is_told_the_known_ones() {
    let error = named("nothing", None).unwrap_err().to_string();
    assert!(error.contains("nothing") && error.contains("light-source"), "{error}");
}
