-- Whom rules speak of, in the form in which they are found by their actors (src/store/gate.rs, join_purposes): a part that says who and
-- one that says what for become one. SQLite has the same (migrations/sqlite/0051_audience.sql).
INSERT INTO audience_part (actor, purpose, audience, part, parts)
SELECT a.actor, p.purpose, a.audience, 0, 1 FROM audience_part a JOIN audience_part p ON p.audience = a.audience AND p.part <> a.part
WHERE a.parts = 2 AND a.actor <> 0 AND a.purpose = 0 AND p.actor = 0 AND p.purpose <> 0;
DELETE FROM audience_part WHERE parts = 2 AND audience IN (SELECT audience FROM audience_part WHERE parts = 1);
