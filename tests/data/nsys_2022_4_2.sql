BEGIN TRANSACTION;
CREATE TABLE ENUM_CUDA_MEMCPY_OPER (
    -- CUDA memcpy operation labels

    id                          INTEGER   NOT NULL   PRIMARY KEY,      -- Enum numerical value
    name                        TEXT,                                  -- Enum symbol name
    label                       TEXT                                   -- Enum human name
);
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(0,'CUDA_MEMCPY_KIND_UNKNOWN','Unknown');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(1,'CUDA_MEMCPY_KIND_HTOD','Host-to-Device');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(2,'CUDA_MEMCPY_KIND_DTOH','Device-to-Host');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(3,'CUDA_MEMCPY_KIND_HTOA','Host-to-Array');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(4,'CUDA_MEMCPY_KIND_ATOH','Array-to-Host');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(5,'CUDA_MEMCPY_KIND_ATOA','Array-to-Array');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(6,'CUDA_MEMCPY_KIND_ATOD','Array-to-Device');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(7,'CUDA_MEMCPY_KIND_DTOA','Device-to-Array');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(8,'CUDA_MEMCPY_KIND_DTOD','Device-to-Device');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(9,'CUDA_MEMCPY_KIND_HTOH','Host-to-Host');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(10,'CUDA_MEMCPY_KIND_PTOP','Peer-to-Peer');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(11,'CUDA_MEMCPY_KIND_UVM_HTOD','Unified Host-to-Device');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(12,'CUDA_MEMCPY_KIND_UVM_DTOH','Unified Device-to-Host');
INSERT INTO "ENUM_CUDA_MEMCPY_OPER" VALUES(13,'CUDA_MEMCPY_KIND_UVM_DTOD','Unified Device-to-Device');
CREATE TABLE ENUM_NSYS_EVENT_TYPE (
    -- Nsys event type labels

    id                          INTEGER   NOT NULL   PRIMARY KEY,      -- Enum numerical value
    name                        TEXT,                                  -- Enum symbol name
    label                       TEXT                                   -- Enum human name
);
INSERT INTO "ENUM_NSYS_EVENT_TYPE" VALUES(59,'NvtxPushPopRange','NvtxPushPopRange');
INSERT INTO "ENUM_NSYS_EVENT_TYPE" VALUES(60,'NvtxStartEndRange','NvtxStartEndRange');
INSERT INTO "ENUM_NSYS_EVENT_TYPE" VALUES(75,'NvtxDomainCreate','NvtxDomainCreate');
CREATE TABLE EXPORT_META_DATA (
    -- information about nsys export process

    name                        TEXT      NOT NULL,                    -- Name of export meta-data record
    value                       TEXT                                   -- Value of export meta-data record
);
INSERT INTO "EXPORT_META_DATA" VALUES('EXPORT_PRODUCT_NAME','NVIDIA Nsight Systems');
INSERT INTO "EXPORT_META_DATA" VALUES('EXPORT_PRODUCT_VERSION','2022.4.2.1');
INSERT INTO "EXPORT_META_DATA" VALUES('EXPORT_PRODUCT_DATE','2022.4');
INSERT INTO "EXPORT_META_DATA" VALUES('EXPORT_SCHEMA_VERSION','3.0.0');
INSERT INTO "EXPORT_META_DATA" VALUES('EXPORT_SCHEMA_VERSION_MAJOR','3');
INSERT INTO "EXPORT_META_DATA" VALUES('EXPORT_SCHEMA_VERSION_MINOR','0');
INSERT INTO "EXPORT_META_DATA" VALUES('EXPORT_SCHEMA_VERSION_MICRO','0');
INSERT INTO "EXPORT_META_DATA" VALUES('EXPORT_SCHEMA_VERSION_CKSUM','4042420554 115894');
CREATE TABLE NVTX_EVENTS (
    start                       INTEGER   NOT NULL,                    -- Event start timestamp (ns).
    end                         INTEGER,                               -- Event end timestamp (ns).
    eventType                   INTEGER   NOT NULL,                    -- REFERENCES ENUM_NSYS_EVENT_TYPE(id)
    rangeId                     INTEGER,                               -- Correlation ID returned from a nvtxRangeStart call.
    category                    INTEGER,                               -- User-controlled ID that can be used to group events.
    color                       INTEGER,                               -- Encoded ARGB color value.
    text                        TEXT,                                  -- Optional text message for non registered strings.
    globalTid                   INTEGER,                               -- Serialized GlobalId.
    endGlobalTid                INTEGER,                               -- Serialized GlobalId.
    textId                      INTEGER,                               -- REFERENCES StringIds(id) -- Registered NVTX domain
    domainId                    INTEGER,                               -- User-controlled ID that can be used to group events.
    uint64Value                 INTEGER,                               -- One of possible payload value union members.
    int64Value                  INTEGER,                               -- One of possible payload value union members.
    doubleValue                 REAL,                                  -- One of possible payload value union members.
    uint32Value                 INTEGER,                               -- One of possible payload value union members.
    int32Value                  INTEGER,                               -- One of possible payload value union members.
    floatValue                  REAL,                                  -- One of possible payload value union members.
    jsonTextId                  INTEGER,                               -- One of possible payload value union members.
    jsonText                    TEXT                                   -- One of possible payload value union members.
);
INSERT INTO "NVTX_EVENTS" VALUES(-2810147287,NULL,75,NULL,NULL,NULL,'labkit',281919103199080,NULL,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(-112709504,NULL,75,NULL,NULL,NULL,'labkit.profile',281919103199080,NULL,NULL,2,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(6526323,19412048,59,NULL,NULL,255,NULL,281919103199080,NULL,62,2,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(6634163,6877663,59,NULL,NULL,255,NULL,281919103199080,NULL,66,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(6887283,16032013,59,NULL,NULL,255,NULL,281919103199080,NULL,67,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(6891503,7435873,59,NULL,NULL,255,NULL,281919103199080,NULL,68,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(7438163,16026463,59,NULL,NULL,255,NULL,281919103199080,NULL,68,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(16045953,16277973,59,NULL,NULL,255,NULL,281919103199080,NULL,66,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(16282153,17439713,59,NULL,NULL,255,NULL,281919103199080,NULL,67,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(16286293,16864893,59,NULL,NULL,255,NULL,281919103199080,NULL,68,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(16866443,17437403,59,NULL,NULL,255,NULL,281919103199080,NULL,68,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(17441183,17668113,59,NULL,NULL,255,NULL,281919103199080,NULL,66,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(17669203,18816513,59,NULL,NULL,255,NULL,281919103199080,NULL,67,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(17670203,18241523,59,NULL,NULL,255,NULL,281919103199080,NULL,68,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(18242433,18815833,59,NULL,NULL,255,NULL,281919103199080,NULL,68,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(18833913,NULL,75,NULL,NULL,NULL,'user',281919103199080,NULL,NULL,3,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(18872323,18985803,59,NULL,NULL,255,NULL,281919103199080,NULL,69,3,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "NVTX_EVENTS" VALUES(18995363,19112163,60,1,NULL,255,NULL,281919103199080,NULL,70,3,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE StringIds (
    -- Consolidation of repetitive string values.

    id                          INTEGER   NOT NULL   PRIMARY KEY,      -- ID reference value.
    value                       TEXT      NOT NULL                     -- String value.
);
INSERT INTO "StringIds" VALUES(62,'capture');
INSERT INTO "StringIds" VALUES(66,'preprocess');
INSERT INTO "StringIds" VALUES(67,'infer');
INSERT INTO "StringIds" VALUES(68,'layer');
INSERT INTO "StringIds" VALUES(69,'mine');
INSERT INTO "StringIds" VALUES(70,'across');
COMMIT;
