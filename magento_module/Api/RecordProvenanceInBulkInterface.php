<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api;

/**
 * Takes up to 1,000 records at once.
 *
 * @api
 */
interface RecordProvenanceInBulkInterface
{
    /**
     * Most records of one call.
     */
    public const MOST_RECORDS = 1000;

    /**
     * Record AI writes: the good ones are stored, the bad ones reported by position.
     *
     * @param \Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterface[] $records or arrays of their fields by name
     * @return \Tocsin\BreachNotification\Api\Data\BulkReceiptInterface
     * @throws \Magento\Framework\Exception\InputException if it is no list, empty or too long; nothing was stored
     */
    public function execute($records);
}
