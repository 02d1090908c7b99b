<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api;

/**
 * Marks a record's value as removed. The record stays: it says who was exposed before.
 *
 * @api
 */
interface RetireProvenanceInterface
{
    /**
     * Set deleted_at, once.
     *
     * @param string $recordId
     * @param string|null $deletedAt when the value was removed, with time zone (UTC if none is given); null: now
     * @return \Tocsin\BreachNotification\Api\Data\ProvenanceRecordInterface the record as it is now
     * @throws \Magento\Framework\Exception\NoSuchEntityException
     * @throws \Magento\Framework\Exception\InputException if the time cannot be, or another one is set already
     */
    public function execute(string $recordId, ?string $deletedAt = null);
}
