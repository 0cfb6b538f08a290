-- What a golden Patient says of its links is made for each caller: the stored one is the operator's alone, as what cannot be tied to
-- one patient is.
UPDATE reference SET patient = -1 WHERE key IN (SELECT key FROM resource WHERE live = 2);
UPDATE token SET patient = -1 WHERE key IN (SELECT key FROM resource WHERE live = 2);
UPDATE uri SET patient = -1 WHERE key IN (SELECT key FROM resource WHERE live = 2);
UPDATE history SET patient = -1 WHERE live = 2;
UPDATE resource SET patient = -1 WHERE live = 2;
