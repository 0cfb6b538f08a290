-- What all rules of a patient that speak to one audience say together, where that is simple (src/store/gate/verdict.rs): between low and high
-- everything is shown, unless it has a fact of the clause `unless` (0: whatever it is). unless -1: it is not simple, the rules are asked.
-- Superseded rules, and those that never hold, say nothing. SQLite has the same (migrations/sqlite/0090_verdict.sql).
CREATE TABLE verdict (
    audience BIGINT NOT NULL, patient BIGINT NOT NULL, low BIGINT NOT NULL, high BIGINT NOT NULL, unless BIGINT NOT NULL,
    PRIMARY KEY (audience, patient) INCLUDE (low, high, unless)
);
INSERT INTO verdict (audience, patient, low, high, unless)
SELECT g.audience, g.patient, coalesce(g.low, 0), coalesce(g.high, 0), CASE WHEN g.high IS NULL THEN -1 WHEN g.denials = 0 THEN 0
    WHEN g.denials = g.plain AND g.least = g.most AND g.later <= g.low AND g.earlier >= g.high THEN g.least ELSE -1 END
FROM (
    SELECT n.audience, n.patient, max(n.last) AS high, min(CASE WHEN n.permits = 1 AND n.high = n.last THEN n.low END) AS low,
        count(n.denies) AS denials, count(n.clause) AS plain, min(n.clause) AS least, max(n.clause) AS most,
        max(CASE WHEN n.denies = 1 THEN n.low END) AS later, min(CASE WHEN n.denies = 1 THEN n.high END) AS earlier
    FROM (
        SELECT r.audience, r.patient, r.low, r.high,
            CASE WHEN r.precedence IN (1, 3) AND r.parts = 0 THEN 1 END AS permits,
            max(CASE WHEN r.precedence IN (1, 3) AND r.parts = 0 THEN r.high END) OVER (PARTITION BY r.audience, r.patient) AS last,
            CASE WHEN r.precedence IN (0, 2) THEN 1 END AS denies,
            CASE WHEN r.precedence = 0 AND r.parts = 1 AND r.children = 0 THEN (SELECT CASE WHEN count(*) = 1 AND min(k.kind) = 0 THEN min(k.value) END
                FROM rule_part k WHERE k.consent = r.consent AND k.node = r.node) END AS clause
        FROM rule r WHERE r.superseded = 0 AND r.audience <> -1
    ) n GROUP BY n.audience, n.patient
) g;

-- Whether resources of a class have a fact of a clause.
CREATE FUNCTION gate_has(of_class BIGINT, of_clause BIGINT) RETURNS BOOLEAN LANGUAGE plpgsql STABLE PARALLEL SAFE
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN EXISTS (SELECT 1 FROM class_fact y JOIN clause_fact z ON z.fact = y.fact WHERE z.clause = of_clause AND y.class = of_class);
END $$;
