<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api\Data;

/**
 * What became of a record.
 *
 * @api
 */
interface ProvenanceReceiptInterface
{
    /**
     * Id under which the record is kept
     *
     * @return string
     */
    public function getRecordId();

    /**
     * @param string $recordId
     * @return $this
     */
    public function setRecordId($recordId);

    /**
     * recorded, or repeated where the store held it already
     *
     * @return string
     */
    public function getStatus();

    /**
     * @param string $status
     * @return $this
     */
    public function setStatus($status);
}
