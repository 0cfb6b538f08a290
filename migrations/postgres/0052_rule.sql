-- What decides on rows whose rules ask something (src/store/gate/function.rs), planned once a connection. SQLite has the same inside its
-- statements (src/store/gate/inline.rs), and its rows and indexes of rules are described there (migrations/sqlite/0052_rule.sql).
ALTER TABLE rule DROP CONSTRAINT rule_pkey, ADD PRIMARY KEY (patient, consent, node, audience);
UPDATE rule SET audience = -1 WHERE low >= high;
DELETE FROM audience_part WHERE audience = 0 AND NOT EXISTS (SELECT 1 FROM rule WHERE audience = 0);

-- The numbers under which rules speak of who is all these actors and asks for these purposes.
CREATE FUNCTION gate_audiences(actors BIGINT[], purposes BIGINT[]) RETURNS BIGINT[] LANGUAGE plpgsql STABLE PARALLEL SAFE
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN ARRAY(
        SELECT a.audience FROM audience_part a WHERE a.actor = ANY (actors) AND a.purpose = ANY (purposes)
            AND (a.parts = 1 OR a.parts = (SELECT count(DISTINCT b.part) FROM audience_part b
                WHERE b.audience = a.audience AND b.actor = ANY (actors) AND b.purpose = ANY (purposes))));
END $$;

-- The lowest of a patient's rules that stand for a row; emergency: of those that name emergencies and deny. of_version NULL: the current one, whose
-- traits are looked up. An exception that matches stands in the place of a denial; what permits decides together with its exceptions.
CREATE FUNCTION gate_decided(of_patient BIGINT, of_key BIGINT, of_version BIGINT, of_class BIGINT, of_low BIGINT, of_high BIGINT, audiences BIGINT[], at BIGINT, emergency BOOLEAN)
RETURNS BIGINT LANGUAGE plpgsql STABLE PARALLEL SAFE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    current BOOLEAN := TRUE;
BEGIN
    IF of_version IS NULL THEN
        SELECT q.class, q.low, q.high INTO of_class, of_low, of_high FROM resource q WHERE q.key = of_key;
    ELSE
        current := EXISTS (SELECT 1 FROM resource q WHERE q.key = of_key AND q.version = of_version);
    END IF;
    RETURN (
        WITH matching AS MATERIALIZED (
            SELECT n.consent, n.node, n.parent, n.precedence, n.emergency FROM rule n
            WHERE n.patient = of_patient AND n.audience = ANY (audiences) AND n.superseded = 0 AND n.low <= at AND n.high > at
                AND (n.parts = 0 OR n.parts = (SELECT count(DISTINCT k.part) FROM rule_part k WHERE k.consent = n.consent AND k.node = n.node AND CASE k.kind
                    WHEN 0 THEN EXISTS (SELECT 1 FROM class_fact y JOIN clause_fact z ON z.clause = k.value AND z.fact = y.fact WHERE y.class = of_class)
                    WHEN 1 THEN of_low >= k.low AND of_high <= k.high AND of_high <> of_low
                    WHEN 2 THEN of_high = of_low OR (of_low < k.high AND of_high > k.low)
                    WHEN 3 THEN k.value = of_key
                    WHEN 4 THEN CASE WHEN current THEN EXISTS (SELECT 1 FROM reference x WHERE x.key = of_key AND x.target = k.value AND x.until = 0)
                        ELSE n.precedence IN (0, 2) END
                    WHEN 5 THEN EXISTS (SELECT 1 FROM reference x WHERE x.key = k.value AND x.target = of_key AND x.until = 0) END)))
        SELECT min(n.precedence) FROM matching n WHERE (NOT gate_decided.emergency OR (n.emergency = 1 AND n.precedence IN (0, 2)))
            AND (n.precedence IN (1, 3) OR NOT EXISTS (SELECT 1 FROM matching c WHERE c.consent = n.consent AND c.parent = n.node)));
END $$;

-- Whether a Consent permits one of these audiences something by name.
CREATE FUNCTION gate_named(of_consent BIGINT, audiences BIGINT[], at BIGINT) RETURNS BOOLEAN LANGUAGE plpgsql STABLE PARALLEL SAFE
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN EXISTS (SELECT 1 FROM rule n WHERE n.consent = of_consent AND n.named = 1 AND n.precedence = 1 AND n.audience = ANY (audiences)
        AND n.superseded = 0 AND n.low <= at AND n.high > at);
END $$;
